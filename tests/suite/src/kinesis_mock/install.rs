//! The installation of the npm package, once for all tests, below cargo's build folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE_JSON: &str = include_str!("../../kinesis-mock/package.json");
const PACKAGE_LOCK: &str = include_str!("../../kinesis-mock/package-lock.json");

/// Returns the path of kinesis-mock's script, after installing it if necessary, or the reason why it is not available.
///
/// Test processes run concurrently, so a file lock lets one of them install. The kernel releases the lock if the
/// process is killed. The package appears under its final name only when it is complete.
pub(super) fn main_js() -> Result<PathBuf, String> {
    check("node")?;
    check("npm")?;
    let home = home();
    fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let lock = File::create(home.join("install.lock")).expect("a lock file in the suite's folder");
    lock.lock().expect("file locks on the build folder's disk");
    let package = home.join("package");
    if !is_current(&package) {
        install(&home.join("staging"), &package)?;
    }
    Ok(package.join("node_modules/kinesis-local/main.js"))
}

/// Returns the suite's folder, which has everything about kinesis-mock.
pub(super) fn home() -> PathBuf {
    crate::build_folder("kinesis-mock")
}

fn check(program: &str) -> Result<(), String> {
    match Command::new(program).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("`{program} --version` failed: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("`{program}` does not run: {error}")),
    }
}

/// Returns whether the installed package is the one in this build's lock file.
fn is_current(package: &Path) -> bool {
    fs::read(package.join("package-lock.json")).is_ok_and(|lock| lock == PACKAGE_LOCK.as_bytes())
}

fn install(staging: &Path, package: &Path) -> Result<(), String> {
    for old in [staging, package] {
        // The folder usually does not exist.
        let _ = fs::remove_dir_all(old);
    }
    fs::create_dir_all(staging).expect("a folder in the suite's folder");
    fs::write(staging.join("package.json"), PACKAGE_JSON).expect("a file in the suite's folder");
    fs::write(staging.join("package-lock.json"), PACKAGE_LOCK).expect("a file in the suite's folder");
    let output = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"])
        .current_dir(staging)
        .output()
        .map_err(|error| format!("`npm` does not run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`npm ci` failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    fs::rename(staging, package).expect("a folder renamed on the same disk");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_names_no_registry() {
        assert!(!PACKAGE_LOCK.contains("\"resolved\"") && PACKAGE_LOCK.contains("\"integrity\""));
    }

    #[test]
    fn the_version_is_pinned() {
        let package: serde_json::Value = serde_json::from_str(PACKAGE_JSON).unwrap();
        let lock: serde_json::Value = serde_json::from_str(PACKAGE_LOCK).unwrap();
        let locked = &lock["packages"]["node_modules/kinesis-local"]["version"];
        assert_eq!(&package["dependencies"]["kinesis-local"], locked);
    }
}
