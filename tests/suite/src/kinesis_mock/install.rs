//! Installing the npm package once for all tests, below cargo's build folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE_JSON: &str = include_str!("../../kinesis-mock/package.json");
const PACKAGE_LOCK: &str = include_str!("../../kinesis-mock/package-lock.json");

/// Path of kinesis-mock's script, installed if need be; or why it cannot be had.
///
/// Test processes run side by side: a lock lets one of them install. It is the kernel's, so a killed process leaves
/// it open, and the package appears under its name only when it is whole.
pub(super) fn main_js() -> Result<PathBuf, String> {
    check("node")?;
    check("npm")?;
    let home = home();
    fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let lock = File::create(home.join("install.lock")).expect("a lock file in a folder of ours");
    lock.lock().expect("file locks on the build folder's disk");
    let package = home.join("package");
    if !is_current(&package) {
        install(&home.join("staging"), &package)?;
    }
    Ok(package.join("node_modules/kinesis-local/main.js"))
}

/// Everything of ours.
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

/// Whether what is installed is what the lock file of this build names.
fn is_current(package: &Path) -> bool {
    fs::read(package.join("package-lock.json")).is_ok_and(|lock| lock == PACKAGE_LOCK.as_bytes())
}

fn install(staging: &Path, package: &Path) -> Result<(), String> {
    for old in [staging, package] {
        // Mostly there is none.
        let _ = fs::remove_dir_all(old);
    }
    fs::create_dir_all(staging).expect("a folder below ours");
    fs::write(staging.join("package.json"), PACKAGE_JSON).expect("a file in our folder");
    fs::write(staging.join("package-lock.json"), PACKAGE_LOCK).expect("a file in our folder");
    let output = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"])
        .current_dir(staging)
        .output()
        .map_err(|error| format!("`npm` does not run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`npm ci` failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    fs::rename(staging, package).expect("a folder renamed beside itself");
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
