//! Installs what peers need, below cargo's build folder, and runs it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};

use crate::report::Missing;

/// The folder in which peers are installed, and the folder with their scripts.
#[derive(Debug)]
pub(crate) struct Tools {
    home: PathBuf,
    sources: PathBuf,
}

impl Tools {
    pub(crate) fn new() -> Self {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        Self { home: kpl_suite::build_folder("interop"), sources }
    }

    /// Returns a Python with the packages in `peers/python/NAME.txt`.
    pub(crate) fn python(&self, name: &str) -> anyhow::Result<Python> {
        require("python3", "--version")?;
        let sources = self.sources.join("python");
        let list = sources.join(format!("{name}.txt"));
        let (packages, folder) = (fs::read_to_string(&list)?, self.home.join("python").join(name));
        let bin = folder.join(if cfg!(windows) { "Scripts" } else { "bin" });
        install_once(&folder, &packages, || {
            run(Command::new("python3").args(["-m", "venv"]).arg(&folder), "")?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
            run(Command::new(bin.join("python")).args(pip).arg(&list), "").map(drop)
        })?;
        Ok(Python { bin, sources, packages })
    }

    /// Returns a Node with the packages in `peers/node/package-lock.json`.
    pub(crate) fn node(&self) -> anyhow::Result<Node> {
        require("node", "--version")?;
        require("npm", "--version")?;
        let (sources, folder) = (self.sources.join("node"), self.home.join("node"));
        let lock = fs::read_to_string(sources.join("package-lock.json"))?;
        install_once(&folder, &lock, || {
            for name in ["package.json", "package-lock.json"] {
                fs::copy(sources.join(name), folder.join(name))?;
            }
            let ci = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"];
            run(Command::new("npm").args(ci).current_dir(&folder), "").map(drop)
        })?;
        for entry in fs::read_dir(&sources)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "mjs") {
                // Node searches packages in the script's folder.
                fs::copy(&path, folder.join(path.file_name().unwrap_or_default()))?;
            }
        }
        Ok(Node { folder, lock: serde_json::from_str(&lock)? })
    }

    /// Returns a Java with the packages in `peers/java/NAME.xml`.
    pub(crate) fn java(&self, name: &str) -> anyhow::Result<Java> {
        require("java", "-version")?;
        let sources = self.sources.join("java");
        let list = sources.join(format!("{name}.xml"));
        let (packages, folder) = (fs::read_to_string(&list)?, self.home.join("java").join(name));
        install_once(&folder, &packages, || {
            require("mvn", "-version")?;
            let mut mvn = Command::new("mvn");
            mvn.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-f"]).arg(&list);
            run(mvn.arg(format!("-DoutputDirectory={}", folder.join("lib").display())), "").map(drop)
        })?;
        Ok(Java { folder, sources, packages })
    }
}

/// A Python with installed packages.
#[derive(Debug)]
pub(crate) struct Python {
    bin: PathBuf,
    sources: PathBuf,
    packages: String,
}

impl Python {
    /// Returns a command that runs a script of `peers`.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join("python"));
        command.arg(self.sources.join(name)).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Returns a command that runs a module of a package.
    pub(crate) fn module(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join("python"));
        command.args(["-m", name]);
        command
    }

    /// Returns the name and the pinned version of a package.
    pub(crate) fn version(&self, package: &str) -> anyhow::Result<String> {
        let pinned = |line: &str| line.strip_prefix(package)?.strip_prefix("==").map(|v| format!("{package} {v}"));
        self.packages.lines().find_map(pinned).with_context(|| format!("{package} is not pinned"))
    }
}

/// A Node with installed packages.
#[derive(Debug)]
pub(crate) struct Node {
    folder: PathBuf,
    lock: serde_json::Value,
}

impl Node {
    /// Returns a command that runs a script of `peers`.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = Command::new("node");
        // The SDK warns about versions of Node that it will no longer support.
        command.arg(self.folder.join(name)).env("NODE_NO_WARNINGS", "1");
        command
    }

    /// Returns the name and the pinned version of a package.
    pub(crate) fn version(&self, package: &str) -> anyhow::Result<String> {
        let version = self.lock["packages"][format!("node_modules/{package}")]["version"].as_str();
        version.map(|version| format!("{package} {version}")).with_context(|| format!("{package} is not pinned"))
    }
}

/// A Java with installed packages.
#[derive(Debug)]
pub(crate) struct Java {
    folder: PathBuf,
    sources: PathBuf,
    packages: String,
}

impl Java {
    /// Returns a command that compiles and runs a program of `peers`, which has one file.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new("java");
        command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
        command.arg("-cp").arg(self.folder.join("lib").join("*")).arg(self.sources.join(name));
        command
    }

    /// Returns a folder for files of programs.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the name and the pinned version of a package.
    pub(crate) fn version(&self, package: &str) -> anyhow::Result<String> {
        let found = self.packages.split_once(&format!("<artifactId>{package}</artifactId>"));
        let version = found.and_then(|(_, found)| found.split_once("<version>")?.1.split_once("</version>"));
        version.map(|(version, _)| format!("{package} {version}")).with_context(|| format!("{package} is not pinned"))
    }
}

/// Runs a program, and returns its standard output.
pub(crate) fn run(command: &mut Command, input: &str) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.with_context(|| program.clone())?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    let output = std::thread::scope(|scope| {
        // In a thread, because the program may print before it has read its whole input. An error here means that it
        // ended early, which its status reports.
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    })?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}: {}", output.status, last_lines(&errors));
    String::from_utf8(output.stdout).with_context(|| program)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Returns [`Missing`] if a program does not run on this machine.
fn require(program: &str, flag: &str) -> anyhow::Result<()> {
    match Command::new(program).arg(flag).output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Missing(format!("`{program}` does not run on this machine")).into()),
    }
}

/// Calls `install` for `folder`, unless it has already been installed from the same `recipe`. Returns [`Missing`] if
/// the installation fails.
///
/// Only one installation runs at a time, because peers share some of them.
fn install_once(folder: &Path, recipe: &str, install: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _guard = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let mark = folder.join("installed");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == recipe) {
        return Ok(());
    }
    // The folder usually does not exist.
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    install().map_err(|error| Missing(format!("its installation failed: {error:#}")))?;
    Ok(fs::write(mark, recipe)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_names_no_registry_and_matches_package_json() {
        let sources = Tools::new().sources.join("node");
        let text = fs::read_to_string(sources.join("package-lock.json")).unwrap();
        assert!(!text.contains("\"resolved\"") && text.contains("\"integrity\""));
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let package = read(&fs::read_to_string(sources.join("package.json")).unwrap());
        assert_eq!(read(&text)["packages"][""]["dependencies"], package["dependencies"]);
    }

    #[test]
    fn versions_are_the_pinned_ones() {
        let packages = "aws-kinesis-agg==1.2.3\nboto3==1.44.8\n".to_owned();
        let python = Python { bin: PathBuf::new(), sources: PathBuf::new(), packages };
        assert_eq!(python.version("boto3").unwrap(), "boto3 1.44.8");
        assert!(python.version("boto").is_err() && python.version("agg").is_err());
    }
}
