//! The files that the command line names.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf, absolute};

use anyhow::Context;
use glob::{MatchOptions, Pattern};

/// A file, or a pattern of files.
#[derive(Debug)]
pub(crate) struct Target {
    /// The path or the pattern, absolute: the same command may be started in another directory.
    path: PathBuf,
    pattern: Option<Pattern>,
    /// The directory of the file, or the directories before the first wildcard of the pattern.
    root: PathBuf,
    /// The directory that is left out of names in messages.
    base: Option<PathBuf>,
}

impl Target {
    pub(crate) fn new(argument: &Path, allows_patterns: bool) -> anyhow::Result<Self> {
        let path = absolute(argument).with_context(|| format!("cannot find {argument:?}"))?;
        // The checkpoint is JSON.
        anyhow::ensure!(path.to_str().is_some(), "cannot read {path:?} with --follow or --checkpoint: it is not UTF-8");
        let base = if argument.is_relative() { std::env::current_dir().ok() } else { None };
        let parent = || path.parent().unwrap_or(&path).to_owned();
        // A file may have such a name.
        if !allows_patterns || !has_wildcard(argument) || path.exists() {
            return Ok(Self { pattern: None, root: parent(), path, base });
        }
        // The current directory may have such a name, too.
        let start = base.clone().unwrap_or_default();
        let rest = path.strip_prefix(&start).unwrap_or(&path);
        let plain = rest.components().take_while(|part| !has_wildcard(part.as_ref()));
        let root = plain.fold(start.clone(), |root, part| root.join(part));
        let text = Path::new(&Pattern::escape(&start.to_string_lossy())).join(rest);
        let pattern = Pattern::new(&text.to_string_lossy());
        let pattern = pattern.with_context(|| format!("invalid pattern {:?}", argument.display().to_string()))?;
        Ok(Self { path, pattern: Some(pattern), root, base })
    }

    /// Returns the path, unless this is a pattern.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.pattern.is_none().then_some(&*self.path)
    }

    /// Returns the paths: of a pattern, those of the files that are there. Also returns whether each directory was read.
    pub(crate) fn paths(&self) -> (Vec<PathBuf>, bool) {
        let Some(pattern) = &self.pattern else { return (vec![self.path.clone()], true) };
        let mut is_complete = true;
        let paths = glob::glob_with(pattern.as_str(), OPTIONS).into_iter().flatten().filter_map(|found| match found {
            // `**` finds directories whose names are not UTF-8, too.
            Ok(path) => Some(path).filter(|path| path.to_str().is_some() && !self.is_hidden(path)),
            Err(error) => {
                is_complete &= error.error().kind() == io::ErrorKind::NotFound;
                None
            }
        });
        (paths.collect(), is_complete)
    }

    pub(crate) fn matches(&self, path: &Path) -> bool {
        match &self.pattern {
            None => self.path == path,
            Some(pattern) => pattern.matches_path_with(path, OPTIONS) && !self.is_hidden(path),
        }
    }

    /// Returns whether a path has a name that begins with a dot. As in a shell, no wildcard stands for the dot.
    fn is_hidden(&self, path: &Path) -> bool {
        let has_dot = |path: &Path| {
            let rest = path.strip_prefix(&self.root).unwrap_or(path);
            rest.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"."))
        };
        has_dot(path) && !has_dot(&self.path)
    }

    /// Returns the name of a file in messages: as on the command line.
    pub(crate) fn name(&self, path: &Path) -> String {
        let short = self.base.as_ref().and_then(|base| path.strip_prefix(base).ok());
        short.unwrap_or(path).display().to_string()
    }

    /// Returns the directories of files of this target, and those in which they may appear.
    pub(crate) fn directories<'p>(&self, paths: impl IntoIterator<Item = &'p PathBuf>) -> BTreeSet<PathBuf> {
        let mut directories = BTreeSet::from([self.root.clone()]);
        for path in paths {
            // A link's file is in another directory.
            let real = path.canonicalize().ok();
            directories.extend(real.iter().chain([path]).filter_map(|path| Some(path.parent()?.to_owned())));
        }
        directories
    }
}

fn has_wildcard(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
}

/// As in a shell, with [`Target::is_hidden`]: the crate `glob` panics at names that are not UTF-8 if it looks for dots.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Returns the files of a pattern.
    fn files(target: &Target) -> Vec<PathBuf> {
        let (paths, is_complete) = target.paths();
        assert!(is_complete);
        paths
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.log", "b.log", ".c.log", "d.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join(".git")).unwrap();
        fs::write(dir.path().join(".git/e.log"), "").unwrap();
        let target = Target::new(&dir.path().join("*.log"), true).unwrap();
        assert_eq!(files(&target), [dir.path().join("a.log"), dir.path().join("b.log")]);
        assert!(target.matches(&dir.path().join("z.log")) && !target.matches(&dir.path().join("z/z.log")));
        assert!(!target.matches(&dir.path().join(".c.log")));
        assert!(target.directories([]).contains(dir.path()) && target.file().is_none());
        assert_eq!(files(&Target::new(&dir.path().join(".*.log"), true).unwrap()), [dir.path().join(".c.log")]);
        let deep = Target::new(&dir.path().join("*/*.log"), true).unwrap();
        assert!(files(&deep).is_empty() && deep.directories([]).contains(dir.path()));
        // A file with such a name is no pattern.
        let odd = dir.path().join("[x].log");
        fs::write(&odd, "").unwrap();
        assert_eq!(Target::new(&odd, true).unwrap().file(), Some(&*odd));
        assert!(Target::new(Path::new("[x"), true).is_err());
        assert!(Target::new(Path::new("[x"), false).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_utf_8_match_no_pattern() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.log"));
        // Some file systems refuse them.
        if fs::write(&odd, "").is_ok() {
            fs::write(dir.path().join("a.log"), "").unwrap();
            let target = Target::new(&dir.path().join("*.log"), true).unwrap();
            assert_eq!(files(&target), [dir.path().join("a.log")]);
        }
        assert!(Target::new(&odd, true).is_err());
    }
}
