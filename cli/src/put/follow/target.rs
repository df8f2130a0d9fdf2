//! The files that the command line names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf, absolute};

use anyhow::Context;
use glob::{MatchOptions, Pattern};

/// A file, or a pattern of files.
#[derive(Debug)]
pub(crate) struct Target {
    /// The path or the pattern, absolute: the same command may be started in another directory.
    path: PathBuf,
    pattern: Option<Pattern>,
    /// The directory that is left out of names in messages.
    base: Option<PathBuf>,
}

impl Target {
    pub(crate) fn new(argument: &Path, allows_patterns: bool) -> anyhow::Result<Self> {
        let path = absolute(argument).with_context(|| format!("cannot find {argument:?}"))?;
        let base = if argument.is_relative() { std::env::current_dir().ok() } else { None };
        let text = argument.to_string_lossy();
        // A file may have such a name.
        let is_pattern = allows_patterns && text.contains(['*', '?', '[']) && !path.exists();
        let pattern = if is_pattern {
            Some(Pattern::new(&path.to_string_lossy()).with_context(|| format!("invalid pattern {text:?}"))?)
        } else {
            None
        };
        Ok(Self { path, pattern, base })
    }

    /// Returns the path, unless this is a pattern.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.pattern.is_none().then_some(&*self.path)
    }

    /// Returns the paths: of a pattern, those of the files that are there.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        match &self.pattern {
            None => vec![self.path.clone()],
            Some(pattern) => {
                let paths = glob::glob_with(pattern.as_str(), OPTIONS).into_iter().flatten();
                // A directory that cannot be read has no files until it can.
                paths.filter_map(Result::ok).collect()
            }
        }
    }

    pub(crate) fn matches(&self, path: &Path) -> bool {
        match &self.pattern {
            None => self.path == path,
            Some(pattern) => pattern.matches_path_with(path, OPTIONS),
        }
    }

    /// Returns the name of a file in messages: as on the command line.
    pub(crate) fn name(&self, path: &Path) -> String {
        let short = self.base.as_ref().and_then(|base| path.strip_prefix(base).ok());
        short.unwrap_or(path).display().to_string()
    }

    /// Returns the directories in which files of this target appear.
    pub(crate) fn directories(&self) -> BTreeSet<PathBuf> {
        let is_plain = |path: &&Path| !path.to_string_lossy().contains(['*', '?', '[']);
        let plain = self.path.ancestors().skip(1).find(is_plain).map(Path::to_path_buf);
        let files = self.paths();
        // A link's file is in another directory.
        let real = files.iter().filter_map(|path| path.canonicalize().ok());
        let parents: Vec<_> =
            real.chain(files.iter().cloned()).filter_map(|path| Some(path.parent()?.to_owned())).collect();
        parents.into_iter().chain(plain).collect()
    }
}

/// As in a shell.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.log", "b.log", ".c.log", "d.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let target = Target::new(&dir.path().join("*.log"), true).unwrap();
        assert_eq!(target.paths(), [dir.path().join("a.log"), dir.path().join("b.log")]);
        assert!(target.matches(&dir.path().join("z.log")) && !target.matches(&dir.path().join("z/z.log")));
        assert!(target.directories().contains(dir.path()) && target.file().is_none());
        // A file with such a name is no pattern.
        let odd = dir.path().join("[x].log");
        fs::write(&odd, "").unwrap();
        assert_eq!(Target::new(&odd, true).unwrap().file(), Some(&*odd));
        assert!(Target::new(Path::new("[x"), true).is_err());
        assert!(Target::new(Path::new("[x"), false).is_ok());
    }
}
