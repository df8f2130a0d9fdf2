//! The assignment of messages to lanes.

use core::{array, slice};

use md5::block_api::compress as compress_one;

use crate::Block;

/// The number of lanes in a group: 32-bit words in a vector.
pub(crate) const WIDTH: usize = 8;

/// The maximum number of groups of lanes.
const GROUPS: usize = 4;

/// The MD5 states of a group of lanes: for each word of the state, the words of all lanes.
pub(crate) type State = [[u32; WIDTH]; 4];

/// The blocks for a group of lanes: the same number for each lane.
pub(crate) type Inputs<'a> = [&'a [Block]; WIDTH];

/// Processes blocks in 1 to [`GROUPS`] groups of lanes, and updates the states.
pub(crate) type Compress = fn(&mut [State], &[Inputs]);

const INITIAL: [u32; 4] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];

/// A message in a lane.
struct Message<'a> {
    /// The remaining full blocks.
    body: &'a [Block],
    /// The blocks after `body`: the last bytes, padding and length. Only the last `tail_blocks` of them remain.
    tail: [Block; 2],
    tail_blocks: usize,
    digest: &'a mut [u8; 16],
}

impl<'a> Message<'a> {
    fn new(message: &'a [u8], digest: &'a mut [u8; 16]) -> Self {
        let (body, rest) = message.as_chunks();
        let tail_blocks = if rest.len() < 56 { 1 } else { 2 };
        let mut tail = [[0; 64]; 2];
        let bytes = tail.as_flattened_mut();
        let padded = &mut bytes[128 - 64 * tail_blocks..];
        padded[..rest.len()].copy_from_slice(rest);
        padded[rest.len()] = 0x80;
        bytes[120..].copy_from_slice(&(message.len() as u64).wrapping_mul(8).to_le_bytes());
        Self { body, tail, tail_blocks, digest }
    }

    /// Returns the blocks to process next.
    fn blocks(&self) -> &[Block] {
        if self.body.is_empty() { &self.tail[2 - self.tail_blocks..] } else { self.body }
    }

    /// Removes processed blocks. Returns whether the message is complete.
    fn advance(&mut self, blocks: usize) -> bool {
        if self.body.is_empty() {
            self.tail_blocks -= blocks;
        } else {
            self.body = &self.body[blocks..];
        }
        self.body.is_empty() && self.tail_blocks == 0
    }
}

fn set_digest(digest: &mut [u8; 16], state: [u32; 4]) {
    digest.as_chunks_mut().0.copy_from_slice(&state.map(u32::to_le_bytes));
}

fn state_of(states: &[State], lane: usize) -> [u32; 4] {
    states[lane / WIDTH].map(|word| word[lane % WIDTH])
}

fn set_state(states: &mut [State], lane: usize, state: [u32; 4]) {
    for (word, value) in states[lane / WIDTH].iter_mut().zip(state) {
        word[lane % WIDTH] = value;
    }
}

/// Computes the digests of all messages in lanes. Messages of one block are handled separately.
pub(crate) fn digest_each<'a>(queue: &mut dyn Iterator<Item = (&'a [u8], &'a mut [u8; 16])>, compress: Compress) {
    let mut short = Short::new(compress);
    digest_each_long(&mut queue.filter_map(|(message, digest)| short.take(message, digest)), compress);
    short.finish();
}

/// Messages of one block, padding included, such as keys. They are computed as soon as all lanes have one; no state is
/// kept between blocks.
struct Short<'a> {
    blocks: [Block; SHORT],
    digests: [Option<&'a mut [u8; 16]>; SHORT],
    count: usize,
    compress: Compress,
}

/// The number of lanes for messages of one block: two groups, so that the instructions of one group run during the
/// latencies of the other. More groups would only wait longer for messages.
const SHORT: usize = 2 * WIDTH;

impl<'a> Short<'a> {
    fn new(compress: Compress) -> Self {
        Self { blocks: [[0; 64]; SHORT], digests: [const { None }; SHORT], count: 0, compress }
    }

    /// Adds a message, or returns it if it is longer than one block.
    fn take(&mut self, message: &'a [u8], digest: &'a mut [u8; 16]) -> Option<(&'a [u8], &'a mut [u8; 16])> {
        let len = message.len();
        if len >= 56 {
            return Some((message, digest));
        }
        let block = &mut self.blocks[self.count];
        *block = [0; 64];
        block[..len].copy_from_slice(message);
        block[len] = 0x80;
        block[56..].copy_from_slice(&(8 * len as u64).to_le_bytes());
        self.digests[self.count] = Some(digest);
        self.count += 1;
        if self.count == SHORT {
            self.finish();
        }
        None
    }

    /// Computes the digests of the messages that were added.
    fn finish(&mut self) {
        let groups = self.count.div_ceil(WIDTH);
        let mut states = [INITIAL.map(|word| [word; WIDTH]); SHORT / WIDTH];
        let inputs: [Inputs; SHORT / WIDTH] =
            array::from_fn(|group| array::from_fn(|lane| slice::from_ref(&self.blocks[WIDTH * group + lane])));
        if groups > 0 {
            (self.compress)(&mut states[..groups], &inputs[..groups]);
        }
        for (lane, digest) in self.digests[..self.count].iter_mut().enumerate() {
            if let Some(digest) = digest.take() {
                set_digest(digest, state_of(&states, lane));
            }
        }
        self.count = 0;
    }
}

/// Computes the digests of messages of any length in lanes.
///
/// The busy lanes are always the first ones. A lane whose message is complete takes the next message. When no message
/// is left, it takes the message of the last busy lane, so that fewer groups of lanes are computed. The last message of
/// all is finished without lanes: two busy lanes are faster than that, a single one is not.
fn digest_each_long<'a>(queue: &mut dyn Iterator<Item = (&'a [u8], &'a mut [u8; 16])>, compress: Compress) {
    let mut messages = [const { None::<Message<'a>> }; WIDTH * GROUPS];
    let mut states = [[[0; WIDTH]; 4]; GROUPS];
    let mut busy = 0;
    while busy < messages.len()
        && let Some((message, digest)) = queue.next()
    {
        messages[busy] = Some(Message::new(message, digest));
        set_state(&mut states, busy, INITIAL);
        busy += 1;
    }
    while busy > 1 {
        let groups = busy.div_ceil(WIDTH);
        let next_blocks = || messages[..busy].iter().flatten().map(Message::blocks);
        let run = next_blocks().map(<[Block]>::len).min().unwrap_or_default();
        // The other lanes of a group process the blocks of the first lane, and their results are not used.
        let spare = next_blocks().next().unwrap_or_default();
        let mut inputs = [[&spare[..run]; WIDTH]; GROUPS];
        for (input, blocks) in inputs.as_flattened_mut().iter_mut().zip(next_blocks()) {
            *input = &blocks[..run];
        }
        compress(&mut states[..groups], &inputs[..groups]);

        // In reverse order: a message that moves to another lane has advanced already.
        for lane in (0..busy).rev() {
            let Some(message) = messages[lane].as_mut() else { continue };
            if !message.advance(run) {
                continue;
            }
            set_digest(message.digest, state_of(&states, lane));
            if let Some((message, digest)) = queue.next() {
                messages[lane] = Some(Message::new(message, digest));
                set_state(&mut states, lane, INITIAL);
            } else {
                busy -= 1;
                messages[lane] = messages[busy].take();
                let moved = state_of(&states, busy);
                set_state(&mut states, lane, moved);
            }
        }
    }
    if busy == 1
        && let Some(message) = &mut messages[0]
    {
        let mut state = state_of(&states, 0);
        compress_one(&mut state, message.body);
        compress_one(&mut state, &message.tail[2 - message.tail_blocks..]);
        set_digest(message.digest, state);
    }
}
