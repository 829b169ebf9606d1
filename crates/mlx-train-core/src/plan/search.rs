//! The search for the fastest layout that fits.

use super::{
    candidate::{Candidate, Verdict},
    cluster::{Cluster, MAX_DEVICES},
    error::PlanError,
    ranks::Ranks,
    site::Site,
    text,
    workload::Workload,
};
use crate::{bytes::Bytes, distributed::Parallelism};
use serde::Serialize;

/// What is predicted for every way to split a step, and the fastest that fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The name of the model.
    pub model: String,
    /// How many devices there are.
    pub num_devices: usize,
    /// How many rows a step has, on all devices together.
    pub rows: usize,
    /// How many tokens a row has.
    pub tokens_per_row: usize,
    /// Every candidate: those that fit, the fastest first, then the others, those that lack the least first.
    pub candidates: Vec<Candidate>,
    /// The layouts that are none for this model and these devices.
    pub excluded: Vec<Excluded>,
}

/// A layout that is not predicted, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Excluded {
    /// The layout.
    #[serde(with = "text")]
    pub layout: Parallelism,
    /// What is in the way.
    pub reason: String,
}

impl Plan {
    /// The fastest that fits.
    pub fn chosen(&self) -> Option<&Candidate> {
        self.candidates.first()
    }

    /// The best of each layout, in the order of the candidates.
    pub fn best_of_layouts(&self) -> Vec<&Candidate> {
        let mut best: Vec<&Candidate> = Vec::new();
        for candidate in &self.candidates {
            if !best.iter().any(|known| known.layout == candidate.layout) {
                best.push(candidate);
            }
        }
        best
    }

    /// How many tokens, or rows where there are none, a candidate trains on in a second.
    pub fn tokens_per_second(&self, candidate: &Candidate) -> f64 {
        (self.rows * self.tokens_per_row) as f64 / candidate.seconds.total()
    }
}

/// Plans a step of `workload` on all devices of `cluster`, each of which may use what it has, or `budget` if that is
/// less.
///
/// Every layout `dp|fsdp × tp × pp` of as many ranks as there are devices is predicted under every checkpoint policy
/// and number of micro-batches, and the fastest that fits is chosen.
///
/// ```no_run
/// # use mlx_train_core::{Result, bytes::Bytes, plan::{Cluster, Workload, plan}};
/// # fn example(workload: &Workload, cluster: &Cluster) -> Result<()> {
/// let plan = plan(workload, cluster, Some(Bytes(64 << 30)))?;
/// if let Some(chosen) = plan.chosen() {
///     println!("{}: {:.3} s a step", chosen.layout, chosen.seconds.total());
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`PlanError::DoesNotFit`] with what would fit; [`PlanError::NoLayout`]; [`PlanError::NoRows`].
pub fn plan(
    workload: &Workload,
    cluster: &Cluster,
    budget: Option<Bytes>,
) -> Result<Plan, PlanError> {
    if workload.rows == 0 {
        return Err(PlanError::NoRows { model: workload.model.clone() });
    }
    let (mut candidates, excluded) = candidates(workload, cluster, budget);
    candidates.sort_by(Candidate::compare);
    let num_devices = cluster.num_devices();
    let Some(best) = candidates.first() else {
        return Err(no_layout(num_devices, &excluded));
    };
    if let Verdict::DoesNotFit { .. } = best.verdict {
        return Err(does_not_fit(workload, cluster, budget, best));
    }
    let fastest = best.seconds.total();
    for candidate in candidates.iter_mut().skip(1) {
        if let Verdict::Slower { times } = &mut candidate.verdict {
            *times = candidate.seconds.total() / fastest;
        }
    }
    if let Some(best) = candidates.first_mut() {
        best.verdict = Verdict::Chosen;
    }
    Ok(Plan {
        model: workload.model.clone(),
        num_devices,
        rows: workload.rows,
        tokens_per_row: workload.tokens_per_row,
        candidates,
        excluded,
    })
}

/// Every candidate, in no order, and the layouts that are none.
fn candidates(
    workload: &Workload,
    cluster: &Cluster,
    budget: Option<Bytes>,
) -> (Vec<Candidate>, Vec<Excluded>) {
    let ranks = Ranks::of(cluster);
    let (mut found, mut excluded) = (Vec::new(), Vec::new());
    for layout in layouts(cluster.num_devices()) {
        if let Some(reason) = refusal(workload, cluster, &layout) {
            excluded.push(Excluded { layout, reason });
            continue;
        }
        let site = Site::new(layout, cluster, &ranks, budget);
        for micro_batches in divisors(workload.rows / layout.data) {
            let policies = 0..workload.policies.len();
            found.extend(
                policies.map(|policy| Candidate::predict(workload, &site, policy, micro_batches)),
            );
        }
    }
    (found, excluded)
}

/// Every layout of so many ranks: first those that split less.
fn layouts(num_ranks: usize) -> Vec<Parallelism> {
    let mut layouts = Vec::new();
    for tensor in divisors(num_ranks) {
        for pipeline in divisors(num_ranks / tensor) {
            let data = num_ranks / tensor / pipeline;
            layouts.push(Parallelism { data, is_sharded: false, tensor, pipeline });
            if data > 1 {
                layouts.push(Parallelism { data, is_sharded: true, tensor, pipeline });
            }
        }
    }
    layouts.sort_by_key(Parallelism::num_ways);
    layouts
}

/// Why a layout is none for this model on these devices.
fn refusal(workload: &Workload, cluster: &Cluster, layout: &Parallelism) -> Option<String> {
    let &Parallelism { data, is_sharded, tensor, pipeline } = layout;
    let Workload { rows, num_blocks, .. } = *workload;
    let backend = cluster.backend();
    if !rows.is_multiple_of(data) {
        return Some(format!("{rows} rows are not divided by {data}"));
    }
    if let Some(reason) = workload.tensor.refusal(tensor) {
        return Some(reason);
    }
    if pipeline > num_blocks {
        return Some(format!("{pipeline} stages of {num_blocks} blocks that are alike"));
    }
    if pipeline > 1 && !backend.has_send() {
        return Some(format!("{backend} has no sends in MLX, which a pipeline needs"));
    }
    if layout.num_ways() > 1 && !backend.can_split() {
        return Some(format!("{backend} cannot split a group, which two ways together need"));
    }
    match &workload.whole_matrices {
        Some(optimizer) if is_sharded || tensor > 1 => {
            Some(format!("{optimizer} needs whole matrices"))
        }
        _ => None,
    }
}

/// The divisors of a positive number, the smallest first.
fn divisors(number: usize) -> Vec<usize> {
    let small = (1..).take_while(|divisor| divisor * divisor <= number);
    let small: Vec<usize> = small.filter(|divisor| number.is_multiple_of(*divisor)).collect();
    let large = small.iter().rev().map(|divisor| number / divisor);
    let mut all: Vec<usize> = small.iter().copied().chain(large).collect();
    all.dedup();
    all
}

fn no_layout(devices: usize, excluded: &[Excluded]) -> PlanError {
    let mut reasons: Vec<String> = Vec::new();
    for Excluded { layout, reason } in excluded {
        let reason = format!("{layout}: {reason}");
        if reasons.len() < 4 {
            reasons.push(reason);
        }
    }
    PlanError::NoLayout { devices, reasons: reasons.join("; ") }
}

/// The refusal with what would fit: more memory, or more devices of the same kinds.
fn does_not_fit(
    workload: &Workload,
    cluster: &Cluster,
    budget: Option<Bytes>,
    least: &Candidate,
) -> PlanError {
    let devices = cluster.num_devices();
    let needed = least.memory.total();
    let mut nearest = format!("it fits in {} a device", Bytes(needed));
    let factors =
        (1..).map(|power| 1 << power).take_while(|factor| devices * factor <= MAX_DEVICES);
    let larger = factors.map(|factor| cluster.times(factor)).find_map(|cluster| {
        let (candidates, _) = candidates(workload, &cluster, budget);
        let best = candidates.into_iter().filter(Candidate::fits).min_by(Candidate::compare)?;
        Some((cluster.num_devices(), best))
    });
    if let Some((devices, Candidate { layout, policy, .. })) = larger {
        nearest = format!(
            "{nearest}, or on {devices} such devices as `{layout}` with gradient_checkpointing = \"{policy}\""
        );
    }
    PlanError::DoesNotFit {
        devices,
        layout: least.layout,
        policy: least.policy.to_string(),
        needed,
        available: least.available_bytes,
        nearest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::CheckpointPolicy,
        distributed::Backend,
        plan::{
            cluster::{Host, Link},
            samples::{cluster, device, workload},
        },
    };
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn chosen(workload: &Workload, cluster: &Cluster, budget: Option<Bytes>) -> Candidate {
        plan(workload, cluster, budget).expect("it fits").chosen().expect("there is one").clone()
    }

    #[test]
    fn one_device_with_enough_memory_computes_everything_once() {
        let chosen = chosen(&workload(), &cluster(1, 64 * GIB), None);
        assert_eq!((chosen.layout, chosen.policy), (Parallelism::NONE, CheckpointPolicy::None));
        assert_eq!((chosen.micro_batches, chosen.blocks), (1, vec![4]));
    }

    #[test]
    fn less_memory_means_another_policy_and_then_more_micro_batches() {
        let workload = workload();
        let at = |budget: u64| {
            let chosen = chosen(&workload, &cluster(1, 64 * GIB), Some(Bytes(budget)));
            (chosen.policy, chosen.micro_batches)
        };
        assert_eq!(at(2 * GIB), (CheckpointPolicy::None, 1));
        let (policy, micro_batches) = at(150 << 20);
        assert!(policy == CheckpointPolicy::Full || micro_batches > 1, "{policy} {micro_batches}");
    }

    #[test]
    fn what_fits_nowhere_is_refused_with_what_would() {
        let refused = plan(&workload(), &cluster(2, 32 << 20), None).map(drop);
        let refused = refused.expect_err("it is too little");
        let message = refused.to_string();
        assert!(message.contains("2 devices") && message.contains("32.0 MiB"), "{message}");
        assert!(message.contains("it fits in") && message.contains("such devices as"), "{message}");
    }

    #[test]
    fn layouts_that_cannot_be_are_named_with_the_reason() {
        let mut workload = workload();
        workload.rows = 4;
        workload.tensor.refusals.insert(8, "12 heads are not divided by 8".into());
        let link = Link { bytes_per_second: 1e9, latency_seconds: 1e-4 };
        let reason = |backend, layout: &str| {
            let cluster = Cluster::of(16, device(64 * GIB), link, backend);
            let layout = layout.parse().expect("a layout");
            refusal(&workload, &cluster, &layout).unwrap_or_default()
        };
        assert!(reason(Backend::Ring, "dp=16").contains("4 rows are not divided by 16"));
        assert!(reason(Backend::Ring, "tp=16").contains("8 ranks at most"));
        assert!(reason(Backend::Mpi, "dp=2,tp=8").contains("12 heads"));
        assert!(reason(Backend::Ring, "pp=16").contains("16 stages of 4 blocks"));
        assert!(reason(Backend::Nccl, "tp=4,pp=4").contains("nccl has no sends"));
        assert!(reason(Backend::Ring, "dp=4,tp=4").contains("ring cannot split"));
        assert_eq!(reason(Backend::Mpi, "dp=2,tp=2,pp=4"), "");
        let seven = Cluster::of(7, device(GIB), link, Backend::Ring);
        let none = plan(&workload, &seven, None).map(drop);
        assert!(none.expect_err("7 is prime").to_string().contains("no layout takes 7 devices"));
    }

    #[test]
    fn the_slow_device_gets_fewer_blocks() {
        let mut workload = workload();
        workload.num_blocks = 24;
        let mut cluster = cluster(1, 64 * GIB);
        let mut slow = cluster.hosts[0].clone();
        slow.device.f32_flops /= 3.0;
        cluster.hosts.push(slow);
        let plan = plan(&workload, &cluster, None).expect("it fits");
        let pipelines = plan.candidates.iter().filter(|it| it.layout.pipeline == 2);
        let blocks: Vec<&Vec<usize>> = pipelines.map(|it| &it.blocks).collect();
        assert!(!blocks.is_empty());
        assert!(blocks.iter().all(|blocks| blocks[0] > 2 * blocks[1]), "{blocks:?}");
    }

    #[test]
    fn an_optimizer_of_whole_matrices_gets_whole_matrices() {
        let workload = Workload { whole_matrices: Some("muon".into()), ..workload() };
        let plan = plan(&workload, &cluster(4, 64 * GIB), None).expect("it fits");
        assert!(plan.candidates.iter().all(|it| it.layout.tensor == 1 && !it.layout.is_sharded));
        assert!(plan.excluded.iter().any(|it| it.reason.contains("muon needs whole matrices")));
    }

    prop_compose! {
        fn clusters()(
            kinds in prop::collection::vec((1..3_usize, 1..5_usize, 28..36_u32, 1..20_u32), 1..3),
            backend in prop::sample::select(&Backend::ALL),
            overlap in 0.0..1.0_f64,
        ) -> Cluster {
            let mut cluster = cluster(1, GIB);
            cluster.backend = backend.into();
            cluster.overlap = overlap;
            let link = Link { bytes_per_second: 3e10, latency_seconds: 1e-6 };
            cluster.hosts = kinds.into_iter().map(|(count, devices, memory, speed)| {
                let mut device = device(1 << memory);
                device.f32_flops *= f64::from(speed);
                Host { count, devices, device, link }
            }).collect();
            cluster
        }
    }

    proptest! {
        #[test]
        fn what_is_chosen_fits_and_is_as_fast_as_anything_that_does(cluster in clusters()) {
            let Ok(plan) = plan(&workload(), &cluster, None) else { return Ok(()) };
            let chosen = plan.chosen().expect("there is one");
            prop_assert!(chosen.memory.total() <= chosen.available_bytes);
            prop_assert_eq!(chosen.verdict, Verdict::Chosen);
            for other in &plan.candidates {
                let is_slower = other.seconds.total() >= chosen.seconds.total();
                prop_assert!(is_slower || !other.fits(), "{} {}", other.layout, chosen.layout);
            }
        }

        #[test]
        fn every_candidate_takes_all_devices_all_blocks_and_all_rows(cluster in clusters()) {
            let Ok(plan) = plan(&workload(), &cluster, None) else { return Ok(()) };
            for candidate in &plan.candidates {
                prop_assert_eq!(candidate.layout.num_ranks(), cluster.num_devices());
                prop_assert_eq!(candidate.blocks.iter().sum::<usize>(), 4);
                prop_assert_eq!(candidate.blocks.len(), candidate.layout.pipeline);
                prop_assert_eq!(32 % (candidate.layout.data * candidate.micro_batches), 0);
            }
            let excluded = plan.excluded.iter();
            prop_assert!(excluded.clone().all(|it| it.layout.num_ranks() == cluster.num_devices()));
        }

        #[test]
        fn more_memory_is_never_slower(cluster in clusters(), budget in 26..34_u32) {
            let seconds = |budget: u64| {
                let plan = plan(&workload(), &cluster, Some(Bytes(budget))).ok()?;
                Some(plan.chosen()?.seconds.total())
            };
            if let Some(before) = seconds(1 << budget) {
                let after = seconds(1 << (budget + 1)).expect("what fits in less fits in more");
                prop_assert!(after <= before);
            }
        }
    }

    #[test]
    fn divisors_are_all_there_once() {
        assert_eq!(divisors(1), [1]);
        assert_eq!(divisors(12), [1, 2, 3, 4, 6, 12]);
        assert_eq!(divisors(16), [1, 2, 4, 8, 16]);
    }
}
