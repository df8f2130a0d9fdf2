//! What `kpl put` reads: files and standard input once, or files that are followed or in a checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::Notify;

use super::checkpoint::Offsets;
use super::checkpoint::file::{CheckpointFile, PutAgain};
use super::console::Console;
use super::dead_letter::DeadLetters;
use super::follow::multiline::Multiline;
use super::follow::{FollowOptions, Follower, ResumedFile};
use super::line_counts::FileProgress;
use super::lines::Source;
use super::sources::Sources;

/// What is read.
pub(super) struct Inputs {
    pub(super) sources: Sources,
    pub(super) reading: Reading,
}

/// How it is read.
pub(super) enum Reading {
    /// Files and standard input, once from begin to end.
    Once { sources: Vec<Source>, multiline: Option<Multiline> },
    /// Files that are followed, or in a checkpoint.
    Files { follower: Box<Follower>, follow: bool, offsets: Arc<Offsets>, checkpoint: Option<Checkpoint> },
}

/// A checkpoint that is open.
pub(super) struct Checkpoint {
    pub(super) file: CheckpointFile,
    pub(super) resumed: Vec<ResumedFile>,
}

impl Inputs {
    /// Returns where the results of lines are to be reported.
    pub(super) fn progress(&self) -> Option<FileProgress> {
        match &self.reading {
            Reading::Once { .. } => None,
            Reading::Files { offsets, checkpoint, .. } => Some(FileProgress {
                offsets: offsets.clone(),
                stop: checkpoint.as_ref().map(|_| Arc::new(Notify::new())),
                stopped_by: None,
            }),
        }
    }

    fn open(
        files: &[PathBuf],
        checkpoint: Option<&Path>,
        dead_letter: Option<&Path>,
        stream: &str,
        options: FollowOptions,
        console: &Console,
    ) -> anyhow::Result<Self> {
        let names = Sources::default();
        if !options.follow && checkpoint.is_none() {
            let sources = Source::open_all(files)?;
            for source in &sources {
                names.add(&source.name);
            }
            return Ok(Self { sources: names, reading: Reading::Once { sources, multiline: options.multiline } });
        }
        let option = if options.follow { "--follow" } else { "--checkpoint" };
        let has_standard_input = files.is_empty() || files.contains(&PathBuf::from("-"));
        anyhow::ensure!(!has_standard_input, "{option} needs files: standard input cannot be read again after a crash");
        let opened = checkpoint.map(|path| CheckpointFile::open(path, stream)).transpose()?;
        let (file, contents) = opened.unzip();
        let contents = contents.flatten();
        let put_again = contents.as_ref().map(|contents| contents.put_again).unwrap_or_default();
        let offsets = Offsets::new(file.is_some(), put_again);
        let follow = options.follow;
        let written: Vec<&Path> = checkpoint.into_iter().chain(dead_letter).collect();
        let (follower, resumed) =
            Follower::new(files, &written, options, contents, offsets.clone(), names.clone(), console.clone())?;
        let checkpoint = file.map(|file| {
            let (PutAgain { lines, bytes }, _) = offsets.put_again();
            if !resumed.is_empty() {
                console.print_message(&format!(
                    "goes on from the checkpoint in {} files; at most {lines} lines ({bytes} bytes) are put twice",
                    resumed.len()
                ));
            }
            Checkpoint { file, resumed }
        });
        let reading = Reading::Files { follower: Box::new(follower), follow, offsets, checkpoint };
        Ok(Self { sources: names, reading })
    }
}

/// Opens all files in another thread, because opening a FIFO blocks until another process opens it.
pub(super) async fn open_files(
    files: Vec<PathBuf>,
    dead_letter: Option<PathBuf>,
    checkpoint: Option<PathBuf>,
    stream: &str,
    options: FollowOptions,
    console: &Console,
) -> anyhow::Result<(Inputs, Option<DeadLetters>)> {
    let (stream, console) = (stream.to_owned(), console.clone());
    let open = move || {
        let inputs = Inputs::open(&files, checkpoint.as_deref(), dead_letter.as_deref(), &stream, options, &console)?;
        let dead_letters = dead_letter.map(|path| DeadLetters::open(&path, &files)).transpose()?;
        anyhow::Ok((inputs, dead_letters))
    };
    tokio::task::spawn_blocking(open).await.context("the thread that opens files panicked")?
}
