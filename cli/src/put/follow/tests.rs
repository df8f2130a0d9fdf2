//! Sequences of events that take long, or that a process cannot bring about from outside.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::put::checkpoint::file::PutAgain;
use crate::put::checkpoint::identity::Fingerprint;
use crate::put::checkpoint::to_ms;
use crate::put::lines::{Content, Position};

/// A directory, and a follower whose steps the test makes.
struct Steps {
    dir: TempDir,
    follower: Follower,
    sender: mpsc::Sender<Input>,
    receiver: Receiver<Input>,
}

impl Steps {
    /// Follows files, which are created first: name and content.
    fn new(files: &[(&str, &str)], arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let arguments: Vec<PathBuf> = arguments.iter().map(|name| dir.path().join(name)).collect();
        let options = FollowOptions { follow: true, multiline: None };
        let offsets = Offsets::new(false, PutAgain::default());
        let (sources, console) = (Sources::default(), Console::new());
        let (follower, _) = Follower::new(&arguments, &[], options, None, offsets, sources, console).unwrap();
        let (sender, receiver) = mpsc::channel(1_000);
        Self { dir, follower, sender, receiver }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, name: &str, content: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(content.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Reads what is there, and returns it.
    fn read(&mut self) -> String {
        assert!(self.follower.read_all(&self.sender).is_ok());
        self.received()
    }

    fn received(&mut self) -> String {
        let mut text = String::new();
        while let Ok(input) = self.receiver.try_recv() {
            let Input::Batch(batch) = input else { panic!("{input:?}") };
            for line in batch.lines {
                let Content::Data(data) = line.content else { panic!("too long") };
                text.push_str(std::str::from_utf8(&data).unwrap());
                text.push(' ');
            }
        }
        text
    }

    /// Lets 31 s pass in which no file grows.
    fn wait_31_s(&mut self) {
        let earlier = Instant::now().checked_sub(Duration::from_secs(31)).unwrap();
        self.follower.tails.iter_mut().for_each(|tail| tail.grown_at = earlier);
    }

    fn search(&mut self) {
        self.follower.rediscover();
    }
}

#[test]
fn a_file_that_has_ended_goes_on_when_it_is_back_at_its_path() {
    let mut steps = Steps::new(&[("app.log", "1\n")], &["app.log"]);
    assert_eq!(steps.read(), "1 ");
    steps.rename("app.log", "moved");
    steps.search();
    steps.wait_31_s();
    assert_eq!(steps.read(), "");
    assert!(steps.follower.tails.is_empty(), "it has ended");
    steps.rename("moved", "app.log");
    steps.append("app.log", "2\n");
    steps.search();
    assert_eq!(steps.read(), "2 ");
}

#[test]
fn a_new_file_with_the_inode_and_the_header_of_one_that_has_ended_is_read() {
    let header = "h".repeat(2_000);
    let mut steps = Steps::new(&[("app.log", &format!("{header}\n1\n"))], &["app.log"]);
    assert_eq!(steps.read(), format!("{header} 1 "));
    steps.rename("app.log", "app.log.1");
    steps.search();
    steps.wait_31_s();
    steps.read();
    assert_eq!((steps.follower.tails.len(), steps.follower.ended.len()), (0, 1));
    // The same inode with other content, as if it was used again.
    steps.rename("app.log.1", "app.log");
    fs::write(steps.path("app.log"), format!("{header}\n2\n")).unwrap();
    steps.search();
    assert_eq!(steps.read(), format!("{header} 2 "));
}

#[test]
fn a_rotated_file_that_grew_while_others_were_read_does_not_end() {
    let mut steps = Steps::new(&[("app.log", "1\n")], &["app.log"]);
    assert_eq!(steps.read(), "1 ");
    steps.rename("app.log", "app.log.1");
    steps.search();
    steps.wait_31_s();
    // More than a turn, and half a line.
    let line = "x".repeat(1 << 20);
    steps.append("app.log.1", &format!("{line}\n{line}\nhalf"));
    assert!(steps.follower.end_quiet(&steps.sender).is_ok());
    let text = steps.received() + &steps.read();
    assert_eq!(text, format!("{line} {line} "));
    steps.append("app.log.1", " line\n");
    assert_eq!(steps.read(), "half line ");
    steps.wait_31_s();
    steps.read();
    assert!(steps.follower.tails.is_empty());
}

#[test]
fn a_file_that_cannot_be_read_does_not_end_and_is_tried_again() {
    let mut steps = Steps::new(&[("app.log", "1\n"), ("b.log", "b\n")], &["app.log", "b.log"]);
    assert_eq!(steps.read(), "1 b ");
    steps.append("app.log", "2\n");
    steps.rename("app.log", "app.log.1");
    steps.search();
    // A handle that cannot be read, as in the time of an I/O error.
    let unreadable = Arc::new(OpenOptions::new().append(true).open(steps.path("app.log.1")).unwrap());
    let readable = mem::replace(&mut steps.follower.tails[0].file, unreadable);
    assert_eq!(steps.read(), "");
    steps.wait_31_s();
    steps.append("b.log", "c\n");
    assert_eq!(steps.read(), "c ");
    // Apart from the events of the steps above, nothing is due.
    let mut looks = 0;
    while steps.follower.next_timeout() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(10));
        assert_eq!(steps.read(), "");
        looks += 1;
        assert!(looks < 100, "no busy loop");
    }
    steps.follower.tails[0].file = readable;
    assert_eq!(steps.read(), "2 ");
}

#[test]
fn a_large_rotated_file_leaves_turns_to_others_and_comes_before_its_successor() {
    let line = "x".repeat(1 << 20);
    let old: String = (0..5).map(|n| format!("{n}{line}\n")).collect();
    let mut steps = Steps::new(&[("app.log", &old)], &["app.log", "b.log"]);
    steps.rename("app.log", "app.log.1");
    steps.append("app.log", "new\n");
    steps.search();
    steps.append("b.log", "b\n");
    steps.search();
    let read: Vec<String> = steps.read().split_whitespace().map(|line| line.chars().take(3).collect()).collect();
    let place = |line: &str| read.iter().position(|read| read == line).unwrap();
    assert!(place("b") < place("4xx"), "{read:?}");
    assert!(place("4xx") < place("new"), "{read:?}");
}

#[test]
fn a_rotated_file_that_goes_on_growing_does_not_hold_up_its_successor() {
    let mut steps = Steps::new(&[("app.log", "1\n")], &["app.log"]);
    assert_eq!(steps.read(), "1 ");
    steps.rename("app.log", "app.log.1");
    steps.append("app.log", "new\n");
    steps.search();
    // Another writer has not moved on. It writes more than is read in a turn, so that the end is never reached.
    let line = "x".repeat(1 << 20);
    let next = |steps: &Steps| steps.follower.tails.iter().position(|tail| tail.after.is_some());
    for _ in 0..9 {
        steps.append("app.log.1", &format!("{line}\n{line}\n"));
        let Some(index) = next(&steps) else { break };
        assert!(steps.follower.is_next(index, &steps.sender).is_ok());
        steps.received();
    }
    assert_eq!(next(&steps), None);
    assert!(steps.read().contains("new"));
}

#[test]
fn files_are_searched_for_while_others_have_more() {
    let mut steps = Steps::new(&[("a.log", "")], &["*.log"]);
    steps.read();
    let lines = "x\n".repeat(3 << 20);
    fs::write(steps.path("a.log"), &lines).unwrap();
    fs::write(steps.path("b.log"), "b\n").unwrap();
    steps.follower.have_names_changed = true;
    steps.follower.next_discovery_at = Instant::now();
    let (sender, mut receiver) = mpsc::channel(100_000);
    steps.sender = sender;
    mem::swap(&mut steps.receiver, &mut receiver);
    let text = steps.read();
    let place = text.find('b').unwrap();
    assert!(place < text.len() - 100, "b.log has its turn before a.log is read to its end: {place}");
}

#[test]
fn a_path_that_is_not_a_file_any_more_does_not_stop_the_search_for_others() {
    let mut steps = Steps::new(&[("a.log", "a\n"), ("b.log", "b\n")], &["a.log", "b.log"]);
    assert_eq!(steps.read(), "a b ");
    fs::remove_file(steps.path("a.log")).unwrap();
    fs::create_dir(steps.path("a.log")).unwrap();
    steps.rename("b.log", "b.log.1");
    steps.append("b.log", "new\n");
    steps.search();
    assert_eq!(steps.read(), "new ");
}

#[cfg(unix)]
#[test]
fn a_link_to_nothing_does_not_make_searches_incomplete() {
    let mut steps = Steps::new(&[("a.log", "a\n")], &["*.log"]);
    std::os::unix::fs::symlink(steps.path("nothing"), steps.path("link.log")).unwrap();
    let before = steps.follower.searched_at;
    thread::sleep(Duration::from_millis(2));
    steps.search();
    assert!(steps.follower.searched_at > before);
}

#[test]
fn compressed_files_match_no_pattern() {
    let mut steps = Steps::new(&[("app.log", "1\n"), ("app.log.2.gz", "gz\n")], &["app.log*"]);
    assert_eq!(steps.read(), "1 ");
}

#[test]
fn the_rest_before_a_range_that_was_put_is_read_without_a_newline() {
    let mut steps = Steps::new(&[("app.log", "1\n22rest\n")], &["app.log"]);
    // An earlier run took "22" for the last line, and put "rest" after it.
    let position = |offset, line| Position { offset, line };
    steps.follower.tails[0].resolved = [(position(4, 2), position(9, 3))].into();
    assert_eq!(steps.read(), "1 22 ");
}

#[test]
fn many_followed_files_may_be_open() {
    raise_file_limit();
    let dir = tempfile::tempdir().unwrap();
    let open: Vec<_> = (0..1_100).map(|n| File::create(dir.path().join(n.to_string()))).collect();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // Unless the system allows no more.
    assert!(limit.maximum.is_some_and(|maximum| maximum < 1_200) || open.iter().all(Result::is_ok));
}

#[test]
fn a_file_of_the_checkpoint_that_cannot_be_looked_for_is_not_read_as_a_new_one() {
    let mut steps = Steps::new(&[], &["app.log"]);
    steps.append("app.log", "1\n");
    let found = Found::open(&steps.path("app.log")).unwrap();
    let mut entry = FileEntry {
        path: steps.path("app.log"),
        device: found.id.device,
        inode: found.id.inode,
        head: Fingerprint::of_head(&found.file).unwrap(),
        offset: 2,
        line: 1,
        before_offset: Fingerprint::before(&found.file, 2).unwrap(),
        resolved: Vec::new(),
        limit: 2,
        verified_at_ms: to_ms(SystemTime::now()),
        ended: false,
    };
    steps.follower.unavailable.push(Unavailable { source: 7, entry: entry.clone() });
    steps.append("app.log", "2\n");
    steps.search();
    assert_eq!(steps.read(), "2 ");
    assert!(steps.follower.unavailable.is_empty());
    // What was not there for days is forgotten.
    entry.verified_at_ms = 0;
    steps.follower.wait_until_available(entry, "app.log");
    assert!(steps.follower.unavailable.is_empty());
}

#[test]
fn a_directory_that_was_deleted_does_not_keep_the_files_of_others() {
    let mut steps = Steps::new(&[("app.log", "1\n")], &["*/b.log", "app.log"]);
    fs::create_dir(steps.path("pod")).unwrap();
    steps.append("pod/b.log", "2\n");
    steps.search();
    assert_eq!(steps.read(), "1 2 ");
    fs::remove_dir_all(steps.path("pod")).unwrap();
    steps.rename("app.log", "app.log.1");
    steps.search();
    steps.wait_31_s();
    steps.read();
    assert_eq!(steps.follower.ended.len(), 2);
    fs::remove_file(steps.path("app.log.1")).unwrap();
    steps.append("other", "");
    steps.search();
    assert_eq!(steps.follower.ended.len(), 1, "that of the directory, for some days");
}
