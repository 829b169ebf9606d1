//! How long a step takes.
//!
//! A stage of a pipeline takes `t` for a micro-batch, forward and backward, with the sums of its tensor ranks, the
//! gathers of its sharded parameters and what it sends. With m micro-batches, 1F1B takes the time of one through all
//! stages and m - 1 times that of the slowest: `(p - 1 + m) t` where stages are equal, as in Narayanan et al.,
//! arXiv:2104.04473, section 2.2. Tensor ranks add up after each part of a block and wait for it (Shoeybi et al.,
//! arXiv:1909.08053, section 3). Sharded parameters are gathered for the forward pass, again for the backward pass of
//! a checkpointed block, and their gradients are scattered as sums: 1.5 times what copies send (Rajbhandari et al.,
//! arXiv:1910.02054, section 7). At the end of the step, copies add up their gradients once, and each rank updates
//! what it holds.

use super::{
    site::Site,
    stages::balance,
    work::Work,
    workload::{BlockCost, Place, Workload},
};
use serde::Serialize;

/// Adding a gradient to the mean of those before it: `a + (b - a) * share`, of f32, reads and writes so many bytes.
const MERGED_BYTES: f64 = 32.0;

/// The backward pass takes about twice as long as the forward pass.
const BACKWARD_SHARE: f64 = 2.0 / 3.0;

/// What the seconds of a step are for, on the slowest stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Forward and backward passes, with what is computed twice.
    pub compute: f64,
    /// Waiting for other stages while the pipeline fills and empties.
    pub bubble: f64,
    /// Sums over tensor ranks.
    pub tensor: f64,
    /// Sending to and from neighbouring stages.
    pub pipeline: f64,
    /// Gathering sharded parameters and scattering their gradients, as far as it is waited for.
    pub sharding: f64,
    /// Adding up the gradients of copies, as far as it is waited for.
    pub gradients: f64,
    /// The optimizer.
    pub update: f64,
}

impl Seconds {
    /// All of them.
    pub fn total(&self) -> f64 {
        let Self { compute, bubble, tensor, pipeline, sharding, gradients, update } = self;
        compute + bubble + tensor + pipeline + sharding + gradients + update
    }
}

/// How often and how much of a layout is computed at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace<'w> {
    pub(super) cost: &'w BlockCost,
    pub(super) micro_batches: usize,
    /// Of one micro-batch on one rank.
    pub(super) rows: f64,
}

/// What a stage takes for a micro-batch.
#[derive(Debug, Clone, Copy, Default)]
struct Parts {
    compute: f64,
    tensor: f64,
    pipeline: f64,
    sharding: f64,
}

impl Parts {
    fn total(&self) -> f64 {
        self.compute + self.tensor + self.pipeline + self.sharding
    }
}

/// How many blocks each stage gets.
pub(super) fn blocks(workload: &Workload, site: &Site<'_>, pace: Pace<'_>) -> Vec<usize> {
    let stages = 0..site.layout.pipeline;
    let seconds = |stage, work: Work| slowest(workload, site, stage, work);
    let block = workload.tensor.of_block(block_work(pace), site.layout.tensor);
    let blocks: Vec<f64> = stages.clone().map(|stage| seconds(stage, block)).collect();
    let others: Vec<f64> =
        stages.map(|stage| seconds(stage, other_work(workload, site, pace, stage))).collect();
    balance(workload.num_blocks, &blocks, &others)
}

/// What a step takes.
pub(super) fn seconds(
    workload: &Workload,
    site: &Site<'_>,
    pace: Pace<'_>,
    blocks: &[usize],
) -> Seconds {
    let parts: Vec<Parts> = blocks
        .iter()
        .enumerate()
        .map(|(stage, &blocks)| micro_batch(workload, site, pace, stage, blocks))
        .collect();
    let slowest = parts.iter().copied().max_by(|a, b| a.total().total_cmp(&b.total()));
    let slowest = slowest.unwrap_or_default();
    let through: f64 = parts.iter().map(Parts::total).sum();
    let times = pace.micro_batches as f64;
    let most = |seconds: &dyn Fn(usize) -> f64| (0..blocks.len()).map(seconds).fold(0.0, f64::max);
    Seconds {
        compute: times * slowest.compute,
        bubble: through - slowest.total(),
        tensor: times * slowest.tensor,
        pipeline: times * slowest.pipeline,
        sharding: times * slowest.sharding,
        gradients: most(&|stage| {
            gradients(workload, site, stage, blocks[stage], parts[stage].compute)
        }) + tied(workload, site),
        update: most(&|stage| update(workload, site, stage, blocks[stage])),
    }
}

/// The work of one block for a micro-batch, undivided.
fn block_work(Pace { cost, rows, .. }: Pace<'_>) -> Work {
    cost.row * rows + cost.micro_batch
}

/// The work of a stage for a micro-batch besides its blocks.
fn other_work(workload: &Workload, site: &Site<'_>, pace: Pace<'_>, stage: usize) -> Work {
    let before = workload.before * pace.rows;
    let mut work = Work::default();
    if stage == 0 {
        work = work + before;
    }
    if stage + 1 == site.layout.pipeline {
        work = work + workload.outside(pace.rows).work.beyond(before);
    }
    workload.tensor.of_outside(work, site.layout.tensor)
}

fn micro_batch(
    workload: &Workload,
    site: &Site<'_>,
    pace: Pace<'_>,
    stage: usize,
    blocks: usize,
) -> Parts {
    let Site { layout, groups, .. } = site;
    let Pace { cost, rows, .. } = pace;
    let number = blocks as f64;
    let boundary = workload.boundary_bytes * rows;
    let block = workload.tensor.of_block(block_work(pace), layout.tensor);
    let mut work = block * number + other_work(workload, site, pace, stage);
    if pace.micro_batches > 1 {
        work.bytes += MERGED_BYTES * trained(workload, site, stage, blocks).numbers;
    }
    let compute = slowest(workload, site, stage, work);

    let is_last = stage + 1 == layout.pipeline;
    // The forward and the backward pass, and the forward pass again; vocabularies at either end.
    let sums = number * workload.tensor.sums * (2.0 + cost.rerun)
        + f64::from(u8::from(stage == 0))
        + f64::from(u8::from(is_last));
    let tensor = if layout.tensor > 1 { sums * groups.tensor.all_reduce(boundary) } else { 0.0 };
    // Activations to one side, gradients to the other, over each end that has a neighbour.
    let ends = usize::from(stage > 0) + usize::from(!is_last);
    let pipeline = ends as f64 * groups.pipeline.send(boundary);

    let mut sharding = 0.0;
    if layout.is_sharded {
        let [block, outside] = passed_on(workload, site, stage);
        let gathers = 1.0 + cost.checkpointed;
        let ring = &groups.data;
        sharding = number
            * (gathers * ring.all_gather(block.weights) + ring.reduce_scatter(block.gradients))
            + ring.all_gather(outside.weights)
            + ring.reduce_scatter(outside.gradients);
        sharding = waited_for(sharding, compute, site.overlap);
    }
    Parts { compute, tensor, pipeline, sharding }
}

/// What ranks that share a batch gather and scatter, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct PassedOn {
    weights: f64,
    gradients: f64,
}

/// What is passed on of one block, and of what is not in blocks.
fn passed_on(workload: &Workload, site: &Site<'_>, stage: usize) -> [PassedOn; 2] {
    let mut passed = [PassedOn::default(); 2];
    for parameter in &workload.parameters {
        let part = match parameter.place {
            Place::Block => &mut passed[0],
            place if is_on(place, stage, site.layout.pipeline) => &mut passed[1],
            _ => continue,
        };
        let numbers = parameter.held(site.layout.tensor, 1);
        part.weights += numbers * parameter.item_bytes as f64;
        if parameter.is_trained {
            part.gradients += numbers * workload.travelling_bytes;
        }
    }
    passed
}

/// The sum of the gradients of copies of a stage.
fn gradients(
    workload: &Workload,
    site: &Site<'_>,
    stage: usize,
    blocks: usize,
    compute: f64,
) -> f64 {
    if site.layout.is_sharded || site.layout.data == 1 {
        return 0.0;
    }
    let Trained { numbers, .. } = trained(workload, site, stage, blocks);
    let seconds = site.groups.data.all_reduce(numbers * workload.travelling_bytes);
    // They are added up once, after the last micro-batch.
    waited_for(seconds, BACKWARD_SHARE * compute, site.overlap)
}

/// The sum of the gradients of what the first and the last stage both use.
fn tied(workload: &Workload, site: &Site<'_>) -> f64 {
    if site.layout.pipeline == 1 {
        return 0.0;
    }
    let both = workload.parameters.iter().filter(|it| it.place == Place::Both && it.is_trained);
    let numbers: f64 = both.map(|it| it.held(site.layout.tensor, 1)).sum();
    if numbers > 0.0 {
        site.groups.pipeline.all_reduce(numbers * workload.travelling_bytes)
    } else {
        0.0
    }
}

fn update(workload: &Workload, site: &Site<'_>, stage: usize, blocks: usize) -> f64 {
    let Trained { numbers, arrays } = trained(workload, site, stage, blocks);
    let each = workload.update;
    let work = Work { operations: each.operations * arrays, ..each * numbers };
    slowest(workload, site, stage, work)
}

/// What a rank of a stage updates.
struct Trained {
    numbers: f64,
    arrays: f64,
}

fn trained(workload: &Workload, site: &Site<'_>, stage: usize, blocks: usize) -> Trained {
    let layout = &site.layout;
    let sharded = if layout.is_sharded { layout.data } else { 1 };
    let mut trained = Trained { numbers: 0.0, arrays: 0.0 };
    for parameter in workload.parameters.iter().filter(|parameter| parameter.is_trained) {
        let copies = copies(parameter.place, stage, layout.pipeline, blocks);
        trained.numbers += copies * parameter.held(layout.tensor, sharded);
        trained.arrays += copies;
    }
    trained
}

/// How many parameters of a place a stage holds for each that is listed.
pub(super) fn copies(place: Place, stage: usize, stages: usize, blocks: usize) -> f64 {
    match place {
        Place::Block => blocks as f64,
        place => f64::from(u8::from(is_on(place, stage, stages))),
    }
}

/// Whether what is not in blocks is used on a stage.
fn is_on(place: Place, stage: usize, stages: usize) -> bool {
    let (is_first, is_last) = (stage == 0, stage + 1 == stages);
    match place {
        Place::Before => is_first,
        Place::After => is_last,
        Place::Both => is_first || is_last,
        Place::Block => true,
    }
}

/// What the slowest device of a stage takes.
fn slowest(workload: &Workload, site: &Site<'_>, stage: usize, work: Work) -> f64 {
    let kinds = &site.stages[stage].kinds;
    kinds.iter().map(|device| work.seconds(device, workload.number)).fold(0.0, f64::max)
}

/// What is left of `seconds` when as much of it passes during `meanwhile` as `overlap` says.
fn waited_for(seconds: f64, meanwhile: f64, overlap: f64) -> f64 {
    seconds - overlap * seconds.min(meanwhile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{
        cluster::Cluster,
        ranks::Ranks,
        samples::{cluster, workload},
    };

    const NUMBERS: f64 = 1_048_576.0;
    /// The sample's link, in bytes per second, and its latency.
    const LINK: f64 = 1e10;
    const LATENCY: f64 = 1e-5;

    fn step(cluster: &Cluster, layout: &str, policy: usize, micro_batches: usize) -> Seconds {
        let workload = workload();
        let layout = layout.parse().expect("a layout");
        let site = Site::new(layout, cluster, &Ranks::of(cluster), None);
        let rows = 32.0 / (site.layout.data * micro_batches) as f64;
        let pace = Pace { cost: &workload.policies[policy], micro_batches, rows };
        let blocks = blocks(&workload, &site, pace);
        seconds(&workload, &site, pace, &blocks)
    }

    fn near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
    }

    /// One block of a micro-batch of so many rows: 6 GFLOP and 1 MB a row, and ten operations.
    fn block(rows: f64) -> f64 {
        rows * (6e9 / 1e12 + 1e6 / 1e11) + 10.0 * 1e-6
    }

    /// What is outside of blocks: 6 GFLOP a row; before it, a look-up of 1 MB a row that is a part of the rest
    /// where one stage has both ends.
    fn outside(rows: f64) -> f64 {
        rows * 6e9 / 1e12 + (1e6 * rows).max(1e6) / 1e11 + (10.0_f64).max(rows) * 1e-6
    }

    #[test]
    fn a_device_alone_computes_and_updates() {
        let found = step(&cluster(1, 1 << 40), "none", 0, 1);
        near(found.compute, 4.0 * block(32.0) + outside(32.0));
        // Six parameters of 2^20 numbers: 28 bytes and, of each array, 12 operations.
        near(found.update, 6.0 * NUMBERS * 28.0 / 1e11 + 6.0 * 12e-6);
        near(found.total(), found.compute + found.update);
    }

    #[test]
    fn copies_add_up_their_gradients_once() {
        let found = step(&cluster(4, 1 << 40), "dp=4", 0, 2);
        near(found.compute, 2.0 * (4.0 * block(4.0) + outside(4.0) + 6.0 * NUMBERS * 32.0 / 1e11));
        near(found.gradients, 1.5 * 6.0 * NUMBERS * 4.0 / LINK + 6.0 * LATENCY);
        near(found.total(), found.compute + found.gradients + found.update);
    }

    #[test]
    fn shards_gather_twice_where_blocks_are_checkpointed_and_scatter_as_whole_sums_over_mpi() {
        let bytes = NUMBERS * 4.0;
        let gather = 0.75 * bytes / LINK + 3.0 * LATENCY;
        let found = |policy| step(&cluster(4, 1 << 40), "fsdp=4", policy, 1);
        // Four blocks, and before and after them one parameter each.
        let outside =
            1.5 * bytes / LINK + 3.0 * LATENCY + 2.0 * (1.5 * bytes / LINK + 3.0 * LATENCY);
        near(found(0).sharding, 4.0 * (gather + 2.0 * gather) + outside);
        near(found(1).sharding, 4.0 * (2.0 * gather + 2.0 * gather) + outside);
        near(found(0).update, 6.0 * NUMBERS / 4.0 * 28.0 / 1e11 + 6.0 * 12e-6);
    }

    #[test]
    fn tensor_ranks_divide_products_and_add_up_after_each_part() {
        let found = step(&cluster(2, 1 << 40), "tp=2", 0, 1);
        let block = 32.0 * (3e9 / 1e12 + 0.75e6 / 1e11) + 10e-6;
        let outside = 32.0 * (3e9 / 1e12 + 0.75e6 / 1e11) + 32e-6;
        near(found.compute, 4.0 * block + outside);
        // Two sums a block forward and two backward, and one at either end, of 16 MB each.
        near(found.tensor, (4.0 * 4.0 + 2.0) * (32.0 * 5e5 / LINK + 2.0 * LATENCY));
        let again = step(&cluster(2, 1 << 40), "tp=2", 1, 1);
        near(again.tensor, (4.0 * 6.0 + 2.0) * (32.0 * 5e5 / LINK + 2.0 * LATENCY));
    }

    #[test]
    fn equal_stages_wait_as_the_formula_of_the_bubble_says() {
        // Without ends, so that stages are equal.
        let mut workload = workload();
        workload.before = Work::default();
        for cost in &mut workload.outside {
            cost.work = Work::default();
        }
        workload.parameters.retain(|parameter| parameter.place == Place::Block);
        let cluster = cluster(4, 1 << 40);
        let site =
            Site::new("pp=4".parse().expect("a layout"), &cluster, &Ranks::of(&cluster), None);
        let pace = Pace { cost: &workload.policies[0], micro_batches: 8, rows: 4.0 };
        let found = seconds(&workload, &site, pace, &[1; 4]);
        let merged = NUMBERS * 32.0 / 1e11;
        near(found.compute, 8.0 * (block(4.0) + merged));
        // (p - 1) / m of the time of the stages; the two ends send to one side alone.
        let send = 4.0 * 5e5 / LINK + LATENCY;
        near(found.pipeline, 8.0 * 2.0 * send);
        near(found.bubble, 3.0 * (block(4.0) + merged) + 4.0 * send);
    }

    #[test]
    fn what_passes_during_the_computation_is_not_waited_for() {
        let mut cluster = cluster(4, 1 << 40);
        let all = step(&cluster, "dp=4", 0, 1).gradients;
        cluster.overlap = 1.0;
        let found = step(&cluster, "dp=4", 0, 1);
        near(found.gradients + 1.0, (all - BACKWARD_SHARE * found.compute).max(0.0) + 1.0);
        cluster.overlap = 0.5;
        near(
            step(&cluster, "dp=4", 0, 1).gradients,
            all - 0.5 * all.min(BACKWARD_SHARE * found.compute),
        );
    }
}
