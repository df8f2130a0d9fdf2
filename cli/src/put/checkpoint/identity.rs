//! What tells one file from another: its device and inode, and fingerprints of its content.

use std::fs::{File, Metadata};
use std::io;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// The maximum number of bytes of a fingerprint.
pub(crate) const FINGERPRINT_BYTES_MAX: u64 = 1_024;

/// The device and inode of a file. Inodes are reused after a file is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    #[cfg(unix)]
    pub(crate) fn new(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// There are no inodes: [`read_at`] refuses to go on.
    #[cfg(not(unix))]
    pub(crate) fn new(_: &Metadata) -> Self {
        Self { device: 0, inode: 0 }
    }
}

/// The hash of a few bytes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fingerprint {
    pub(crate) bytes: u64,
    #[serde(with = "hex")]
    hash: u64,
}

impl Fingerprint {
    fn new(content: &[u8]) -> Self {
        // The hash of no bytes is 0, as in `default`.
        let hash = if content.is_empty() { 0 } else { xxh3_64(content) };
        Self { bytes: content.len() as u64, hash }
    }

    /// Returns the fingerprint of the first bytes of a file: [`FINGERPRINT_BYTES_MAX`], or all.
    pub(crate) fn of_head(file: &File) -> io::Result<Self> {
        Ok(Self::new(&read_at(file, 0, FINGERPRINT_BYTES_MAX)?))
    }

    /// Returns the fingerprint of the bytes before an offset: [`FINGERPRINT_BYTES_MAX`], or all.
    ///
    /// # Errors
    ///
    /// The file may be shorter than the offset.
    pub(crate) fn before(file: &File, offset: u64) -> io::Result<Self> {
        let bytes = offset.min(FINGERPRINT_BYTES_MAX);
        let content = read_at(file, offset - bytes, bytes)?;
        if (content.len() as u64) < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self::new(&content))
    }

    /// Returns whether a file begins with the bytes of this fingerprint. If so, also returns the fingerprint of the
    /// first bytes as they are now: there may be more of them.
    pub(crate) fn extended_by(&self, file: &File) -> io::Result<Option<Self>> {
        let content = read_at(file, 0, FINGERPRINT_BYTES_MAX)?;
        let is_same = content.get(..self.bytes as usize).is_some_and(|known| Self::new(known) == *self);
        Ok(is_same.then(|| Self::new(&content)))
    }

    /// Returns whether the bytes before an offset of a file are those of this fingerprint.
    pub(crate) fn is_before(&self, file: &File, offset: u64) -> io::Result<bool> {
        match Self::before(file, offset) {
            Ok(found) => Ok(found == *self),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Returns the bytes at an offset of a file: `bytes`, or fewer at its end.
#[cfg(unix)]
fn read_at(file: &File, mut offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut content = vec![0; bytes as usize];
    let mut read = 0;
    while read < content.len() {
        match file.read_at(&mut content[read..], offset) {
            Ok(0) => break,
            Ok(more) => (read, offset) = (read + more, offset + more as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(read);
    Ok(content)
}

#[cfg(not(unix))]
fn read_at(_: &File, _: u64, _: u64) -> io::Result<Vec<u8>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "--follow and --checkpoint need a Unix system"))
}

/// Numbers above 2^53 are not exact in all JSON parsers.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hash: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{hash:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_head_is_the_same_while_the_file_grows_and_differs_after_a_rewrite() {
        let mut file = tempfile::tempfile().unwrap();
        let empty = Fingerprint::of_head(&file).unwrap();
        assert_eq!(empty, Fingerprint::default());
        file.write_all(b"one\n").unwrap();
        let one = empty.extended_by(&file).unwrap().unwrap();
        assert_eq!(one.bytes, 4);
        file.write_all(&[b'x'; 2_000]).unwrap();
        let long = one.extended_by(&file).unwrap().unwrap();
        assert_eq!(long.bytes, 1_024);
        file.set_len(3).unwrap();
        assert_eq!(one.extended_by(&file).unwrap(), None, "shorter");
        file.set_len(0).unwrap();
        assert_eq!((one.extended_by(&file).unwrap(), empty.extended_by(&file).unwrap()), (None, Some(empty)));
    }

    #[test]
    fn the_bytes_before_an_offset_are_known_again() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b'x'; 2_000]).unwrap();
        file.write_all(b"last\n").unwrap();
        let at_end = Fingerprint::before(&file, 2_005).unwrap();
        assert!(at_end.is_before(&file, 2_005).unwrap());
        assert!(!at_end.is_before(&file, 2_000).unwrap());
        assert!(!at_end.is_before(&file, 2_006).unwrap(), "beyond the end");
        assert!(Fingerprint::before(&file, 0).unwrap().is_before(&file, 0).unwrap());
    }
}
