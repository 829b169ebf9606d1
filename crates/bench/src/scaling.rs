//! What several ranks gain over one, for each way of splitting the same work.
//!
//! All ranks take steps by themselves first, at the same time; that is what one device does while its neighbours are
//! as busy. Ranks that share batches then have one batch each, as the device by itself had, and ranks that share
//! layers have that batch together.

use crate::{
    Options, ranks,
    record::Record,
    timing::{Steps, steps},
    training::{TrainingArgs, Work},
};
use mlx_train::{
    Error, Result,
    data::Batch,
    distributed::{Backend, Group, Mesh, Parallelism},
    optim::AdamW,
    profile::Memory,
    train::{Communication, StepAhead, TrainStep},
};
use serde_json::json;

/// A way of splitting the work; `N` is all ranks.
struct Case {
    way: &'static str,
    communication: Communication,
}

const CASES: [Case; 5] = [
    Case { way: "dp=1", communication: Communication::F32 },
    Case { way: "dp=N", communication: Communication::F32 },
    Case { way: "dp=N", communication: Communication::Bf16 },
    Case { way: "fsdp=N", communication: Communication::F32 },
    Case { way: "tp=N", communication: Communication::F32 },
];

/// Starts the ranks, the first of which prints a line for each case of each work; or is one of them.
pub fn run(options: &Options, count: u32, args: &TrainingArgs) -> Result<()> {
    let works = args.works();
    let group = Group::of_environment()?;
    if !group.is_alone() {
        return works.iter().try_for_each(|&work| measure(options, work, args.ahead(), &group));
    }
    let backend = ranks::backend();
    let default = [if backend == Backend::Nccl { Work::Gpt2Small } else { Work::GptS }];
    let works = if works.is_empty() { &default } else { works };
    let steps = options.steps.to_string();
    let mut arguments = vec!["scaling", "--steps", &steps];
    arguments.extend(works.iter().flat_map(|work| ["--work", work.name()]));
    arguments.extend(options.compile.then_some("--compile"));
    arguments.extend(args.ahead().then_some("--ahead"));
    ranks::launch(&arguments, count, backend)
}

/// Measures as one of the ranks.
fn measure(options: &Options, work: Work, ahead: bool, group: &Group) -> Result<()> {
    let mut alone = None;
    for case in CASES {
        let ranks = group.world_size();
        let layout: Parallelism = case.way.replace('N', &ranks.to_string()).parse()?;
        let is_alone = layout.num_ranks() == 1;
        let mesh = if is_alone { Mesh::alone() } else { Mesh::new(group, layout)? };
        let mut step_options = work.step_options(options.compile)?;
        step_options.communication = case.communication;
        let mut model = work.model()?;
        let mut step = TrainStep::parallel(&mesh, &mut model, AdamW::default(), 0, step_options)?;
        let batches = work.sizes().batches()?;
        let mut batches = batches.iter().cycle().skip(mesh.data().rank());
        Memory::reset_peak()?;
        let mut before = None;
        let Steps { first_seconds, seconds } = steps(options.steps, || {
            let batch = batches.next().ok_or_else(|| Error::message("a work has no batch"))?;
            let batches = [Ok(Batch::clone(batch))];
            if !ahead {
                return step.run(batches, 1e-4).map(drop);
            }
            let before = before.replace(step.run_ahead(batches, 1e-4)?);
            before.map_or(Ok(()), |it: StepAhead| it.wait().map(drop))
        })?;
        before.map_or(Ok(()), |it| it.wait().map(drop))?;
        let memory = Memory::now()?;
        let items = f64::from(work.sizes().num_items()) * mesh.data().world_size() as f64;
        let rate = items / seconds.median;
        let alone_rate = *alone.get_or_insert(rate);
        if group.is_first() {
            Record {
                benchmark: "scaling",
                framework: "mlx-train",
                model: work.name(),
                shapes: json!(work.sizes()),
                dtype: work.dtype(),
                compiled: options.compile,
                seconds,
                first_seconds,
                tokens_per_second: Some(rate),
                peak_bytes: memory.peak_bytes,
                further: json!({
                    "layout": layout.to_string(),
                    "communication": format!("{:?}", case.communication).to_lowercase(),
                    "ranks": layout.num_ranks(),
                    "ahead": ahead,
                    "held_bytes": memory.active_bytes,
                    "speedup": rate / alone_rate,
                    "scaling": rate / alone_rate / layout.num_ranks() as f64,
                }),
            }
            .print()?;
        }
    }
    Ok(())
}
