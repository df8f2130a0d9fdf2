//! Which message is in which lane, and when.

use core::{array, slice};

use md5::block_api::compress as compress_one;

use crate::Block;

/// Lanes in a group: 32-bit words in a vector.
pub(crate) const WIDTH: usize = 8;

/// Groups of lanes, at most.
const GROUPS: usize = 4;

/// The state of a group of lanes, by word.
pub(crate) type State = [[u32; WIDTH]; 4];

/// Blocks for a group of lanes, as many for each.
pub(crate) type Inputs<'a> = [&'a [Block]; WIDTH];

/// Takes blocks in, in 1 to [`GROUPS`] groups of lanes.
pub(crate) type Compress = fn(&mut [State], &[Inputs]);

const INITIAL: [u32; 4] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];

/// A message on its way through a lane.
struct Message<'a> {
    /// The whole blocks that are left.
    body: &'a [Block],
    /// What follows them: the last bytes, padding and length, in the last `tail_blocks` of these.
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

    /// The blocks that come next.
    fn blocks(&self) -> &[Block] {
        if self.body.is_empty() { &self.tail[2 - self.tail_blocks..] } else { self.body }
    }

    /// Some of the blocks that came next are done. Is all done?
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

/// Computes the digests of all messages in lanes.
pub(crate) fn digest_each<'a>(queue: &mut dyn Iterator<Item = (&'a [u8], &'a mut [u8; 16])>, compress: Compress) {
    let mut short = Short::new(compress);
    digest_each_long(&mut queue.filter_map(|(message, digest)| short.take(message, digest)), compress);
    short.finish();
}

/// Messages of one block, padding included, such as keys. They are computed as soon as all lanes have one, with nothing to
/// keep between blocks.
struct Short<'a> {
    blocks: [Block; SHORT],
    digests: [Option<&'a mut [u8; 16]>; SHORT],
    count: usize,
    compress: Compress,
}

/// In two groups, the steps of one fill the waits of the other; more would only wait longer for messages.
const SHORT: usize = 2 * WIDTH;

impl<'a> Short<'a> {
    fn new(compress: Compress) -> Self {
        Self { blocks: [[0; 64]; SHORT], digests: [const { None }; SHORT], count: 0, compress }
    }

    /// Gives a message back that is too long.
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

/// Computes the digests of all messages in lanes, whatever their lengths.
///
/// Lanes are busy from the first one on. One whose message is done takes the next one; when none is left, the message of
/// the last busy lane moves there, so that fewer groups of lanes are computed. The last message of all is finished
/// alone: a single lane is no faster, two are.
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
        let waiting = || messages[..busy].iter().flatten().map(Message::blocks);
        let run = waiting().map(<[Block]>::len).min().unwrap_or_default();
        // Lanes that are not busy compute what nobody reads, from the blocks of the first one.
        let spare = waiting().next().unwrap_or_default();
        let mut inputs = [[&spare[..run]; WIDTH]; GROUPS];
        for (input, blocks) in inputs.as_flattened_mut().iter_mut().zip(waiting()) {
            *input = &blocks[..run];
        }
        compress(&mut states[..groups], &inputs[..groups]);

        // From the last one on, so that those which move have advanced.
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
