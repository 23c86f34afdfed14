//! What the scan of all workers reads, as columns: 20 bytes per worker, compared sixteen workers at a time without a
//! branch, which compilers turn into vector instructions. Signed numbers, because the oldest vector instructions
//! compare only those.

use std::ops::Range;

use oak_model::{Architecture, Resources};

use super::Details;

const CONNECTED: i32 = 1;
const OPEN: i32 = 2;
const CONTAINERS: i32 = 4;
const ADDRESSES: i32 = 8;
const REQUIRED: i32 = CONNECTED | OPEN | CONTAINERS | ADDRESSES;
const ARCHITECTURES: i32 = 0xf0;

/// Workers that are compared together.
const LANES: usize = 16;

/// The larger of two loads that no worker has.
const NONE: i32 = i32::MAX;

pub(super) const fn architecture_bit(architecture: Architecture) -> i32 {
    match architecture {
        Architecture::Amd64 => 16,
        Architecture::Arm64 => 32,
        Architecture::Arm => 64,
        Architecture::Riscv64 => 128,
    }
}

pub(super) fn architecture_mask(architectures: &[Architecture]) -> i32 {
    if architectures.is_empty() {
        return ARCHITECTURES;
    }
    architectures.iter().fold(0, |mask, architecture| mask | architecture_bit(*architecture))
}

/// One number per worker in each column.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    class: Vec<i32>,
    /// What one more instance may ask for: unreserved, and not more than the worker has cores.
    cpu: Vec<i32>,
    memory: Vec<i32>,
    storage: Vec<i32>,
    load: Vec<i32>,
}

/// The part of a request that the columns decide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    architectures: i32,
    cpu: i32,
    memory: i32,
    storage: i32,
}

/// The least loaded worker found so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Best {
    pub(super) position: Option<usize>,
    load: i32,
}

impl Default for Best {
    fn default() -> Self {
        Self { position: None, load: NONE }
    }
}

impl Needs {
    pub(super) fn new(resources: Resources, architectures: &[Architecture]) -> Self {
        Self {
            architectures: architecture_mask(architectures),
            cpu: signed(resources.cpu_millis),
            memory: signed(resources.memory_mib),
            storage: signed(resources.storage_mib),
        }
    }

    /// The load of a worker that fits, [`NONE`] of one that does not.
    #[inline]
    fn key(self, class: i32, cpu: i32, memory: i32, storage: i32, load: i32) -> i32 {
        let fits = (class & REQUIRED == REQUIRED)
            & (class & self.architectures != 0)
            & (cpu >= self.cpu)
            & (memory >= self.memory)
            & (storage >= self.storage);
        if fits { load } else { NONE }
    }
}

/// The largest number a column can hold stands for everything above.
fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl Columns {
    pub(super) fn insert(&mut self, position: usize) {
        for column in self.all() {
            column.insert(position, 0);
        }
    }

    pub(super) fn remove(&mut self, position: usize) {
        for column in self.all() {
            column.remove(position);
        }
    }

    fn all(&mut self) -> [&mut Vec<i32>; 5] {
        [&mut self.class, &mut self.cpu, &mut self.memory, &mut self.storage, &mut self.load]
    }

    /// Load of a worker; of one that is not there, more than any has.
    pub(super) fn load(&self, position: usize) -> i32 {
        self.load.get(position).copied().unwrap_or(NONE)
    }

    /// Takes over what is known about a worker.
    pub(super) fn set(&mut self, position: usize, details: &Details) {
        let state = &details.state;
        let mut class = architecture_bit(state.architecture);
        class |= if state.connected { CONNECTED } else { 0 };
        class |= if state.cordoned || state.unreliable { 0 } else { OPEN };
        class |= if state.runs_containers { CONTAINERS } else { 0 };
        class |= if details.instances < state.addresses { ADDRESSES } else { 0 };
        let free = details.free();
        let values = [
            class,
            signed(free.cpu_millis.min(state.capacity.cpu_millis)),
            signed(free.memory_mib),
            signed(free.storage_mib),
            load(details),
        ];
        for (column, value) in self.all().into_iter().zip(values) {
            if let Some(cell) = column.get_mut(position) {
                *cell = value;
            }
        }
    }

    /// Finds the least loaded worker of `range` that fits and that `admits` takes; among equals the first one.
    pub(super) fn scan(
        &self,
        range: Range<usize>,
        needs: Needs,
        admits: impl Fn(usize) -> bool,
        best: &mut Best,
    ) {
        let start = range.start;
        let columns = [&self.class, &self.cpu, &self.memory, &self.storage, &self.load];
        let [Some(class), Some(cpu), Some(memory), Some(storage), Some(load)] =
            columns.map(|column| column.get(range.clone()))
        else {
            return;
        };
        let (class, cpu, memory, storage, load) = (
            class.as_chunks::<LANES>(),
            cpu.as_chunks::<LANES>(),
            memory.as_chunks::<LANES>(),
            storage.as_chunks::<LANES>(),
            load.as_chunks::<LANES>(),
        );
        let mut keys = [NONE; LANES];
        let chunks = class.0.iter().zip(cpu.0).zip(memory.0).zip(storage.0).zip(load.0);
        for (number, ((((class, cpu), memory), storage), load)) in chunks.enumerate() {
            let rows = class.iter().zip(cpu).zip(memory).zip(storage).zip(load);
            for (key, ((((class, cpu), memory), storage), load)) in keys.iter_mut().zip(rows) {
                *key = needs.key(*class, *cpu, *memory, *storage, *load);
            }
            if keys.iter().copied().fold(NONE, i32::min) < best.load {
                choose(&keys, start + number * LANES, &admits, best);
            }
        }
        let rest = class.1.iter().zip(cpu.1).zip(memory.1).zip(storage.1).zip(load.1);
        let rest = rest.map(|((((class, cpu), memory), storage), load)| {
            needs.key(*class, *cpu, *memory, *storage, *load)
        });
        let done = class.0.len() * LANES;
        // Fewer than there are lanes, by the meaning of `as_chunks`.
        let Some(keys) = keys.get_mut(..class.1.len()) else { return };
        keys.iter_mut().zip(rest).for_each(|(key, found)| *key = found);
        choose(keys, start + done, &admits, best);
    }
}

fn choose(keys: &[i32], start: usize, admits: &impl Fn(usize) -> bool, best: &mut Best) {
    for (lane, key) in keys.iter().enumerate() {
        if *key < best.load && admits(start + lane) {
            *best = Best { position: Some(start + lane), load: *key };
        }
    }
}

/// Commitment in thousandths (the larger of CPU and memory) above the number of instances, so that equal workers
/// fill evenly.
fn load(details: &Details) -> i32 {
    // One below the largest that fits, so that no worker looks like none.
    (details.commitment().min(0xf_fffe) << 11) | signed(details.instances.min(0x7ff))
}
