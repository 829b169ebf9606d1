//! `plan`: which way to split a step over devices is the fastest that fits.

use super::{
    Failure,
    args::{PlanArgs, PlanOutput},
    estimate::{exit_unused, rows},
    models::print_json,
    program_name,
    settings::Settings,
};
use crate::{
    Error, Result,
    bytes::Bytes,
    config::{Format, ModelConfig},
    distributed::{Backend, Group},
    estimate::Rows,
    file::write_whole,
    model::BaseModel,
    plan::{Candidate, Choice, Cluster, Excluded, Plan, Workload, plan},
    progress::grouped,
    rng,
};
use serde_json::{Value, json};
use std::{
    io::{Write, stderr},
    path::Path,
    time::Instant,
};

/// How many layouts the table shows without `--all`.
const SHOWN: usize = 16;

pub(super) fn run(args: &PlanArgs, out: &mut impl Write) -> Result<(), Failure> {
    let group = Group::of_environment().map_err(Failure::Failed)?;
    let cluster = cluster(args, &group).map_err(Failure::Refused)?;
    if !group.is_first() {
        return Ok(());
    }
    if args.measure && !args.step.run.names_a_model() {
        write!(out, "{}", to_toml(&cluster).map_err(Failure::Failed)?)?;
        return Ok(());
    }
    let began = Instant::now();
    let planned = Planned::new(args, cluster).map_err(Failure::Refused)?;
    let seconds = began.elapsed().as_secs_f64();
    let PlanOutput { all, json, output } = &args.told;
    if let Some(path) = output {
        let text = format!("{:#}\n", planned.to_json(*all));
        write_whole(path, text).map_err(|error| Failure::Refused(error.into()))?;
    }
    if *json {
        print_json(&planned.to_json(*all), out)?;
    } else {
        out.write_all(planned.to_text(*all, output.as_deref()).as_bytes())?;
    }
    out.flush()?;
    if args.dry_run {
        let Plan { candidates, num_devices, .. } = &planned.plan;
        _ = writeln!(
            stderr(),
            "planned {} candidates for {num_devices} device(s) in {seconds:.2} s",
            candidates.len()
        );
    }
    if group.is_alone() {
        exit_unused();
    }
    Ok(())
}

/// The devices that are planned for: measured, from a file, or as many like this one.
fn cluster(args: &PlanArgs, group: &Group) -> Result<Cluster> {
    if args.measure {
        return measured(group, args.cluster.as_deref());
    }
    if !group.is_alone() {
        return Err(Error::message(format!(
            "this is one of {} ranks, which plan the same; start it without `launch`, or with --measure",
            group.world_size()
        )));
    }
    match (&args.cluster, args.devices) {
        (Some(path), _) => Ok(Cluster::load(path)?),
        (None, devices) => {
            let cluster = Cluster::like_here(
                devices.unwrap_or(1),
                args.backend.unwrap_or_else(likely_backend),
            )?;
            cluster.validate()?;
            Ok(cluster)
        }
    }
}

/// What the ranks of this group can do; the first one writes it down.
fn measured(group: &Group, path: Option<&Path>) -> Result<Cluster> {
    let system = rustix::system::uname();
    let cluster = Cluster::measure(group, &system.nodename().to_string_lossy())?;
    cluster.validate()?;
    if let Some(path) = path.filter(|_| group.is_first()) {
        cluster.save(path)?;
    }
    Ok(cluster)
}

fn to_toml(cluster: &Cluster) -> Result<String> {
    Ok(cluster.to_text(Format::Toml)?)
}

/// What a step of these settings costs.
///
/// # Errors
/// When the model cannot be built or takes other rows.
fn workload(
    settings: &Settings,
    rows: impl FnOnce(&mut dyn BaseModel) -> Result<Rows>,
) -> Result<Workload> {
    let key = rng::key(settings.train.seed)?;
    let build = || rng::scope(&key, || settings.model.build());
    Workload::of(settings.model.model().name(), build, rows, &settings.train)
}

/// The fastest layout that fits the ranks of this group, which measure themselves first.
///
/// # Errors
/// When none fits.
pub(super) fn of_ranks(settings: &Settings, group: &Group) -> Result<Choice> {
    let cluster = measured(group, None)?;
    let workload = workload(settings, |model| rows(settings, model))?;
    let plan = plan(&workload, &cluster, settings.train.memory.memory_budget)?;
    let chosen = plan.chosen().ok_or_else(|| Error::message("a plan has chosen nothing"))?;
    Ok(Choice::of(&plan, chosen))
}

/// A plan and what it is for.
struct Planned {
    plan: Plan,
    cluster: Cluster,
    num_parameters: u64,
    budget: Option<Bytes>,
}

impl Planned {
    fn new(args: &PlanArgs, cluster: Cluster) -> Result<Self> {
        let settings = args.step.settings()?;
        let workload = workload(&settings, |model| args.step.rows(&settings, model))?;
        Ok(Self {
            plan: plan(&workload, &cluster, args.budget)?,
            num_parameters: workload.num_parameters(),
            cluster,
            budget: args.budget,
        })
    }

    /// The candidates that are told: the best of each layout, or all.
    fn told(&self, all: bool) -> Vec<&Candidate> {
        if all { self.plan.candidates.iter().collect() } else { self.plan.best_of_layouts() }
    }

    fn to_json(&self, all: bool) -> Value {
        let plan = &self.plan;
        let candidates = self.told(all).into_iter().map(|candidate| {
            let mut value = json!(candidate);
            value["seconds"]["total"] = json!(candidate.seconds.total());
            value["memory"]["total_bytes"] = json!(candidate.memory.total());
            value["tokens_per_second"] = json!(plan.tokens_per_second(candidate));
            value
        });
        json!({
            "choice": plan.chosen().map(|chosen| Choice::of(plan, chosen)),
            "num_parameters": self.num_parameters,
            "rows": plan.rows,
            "tokens_per_row": plan.tokens_per_row,
            "budget_bytes": self.budget.map(|Bytes(bytes)| bytes),
            "cluster": self.cluster.to_value(),
            "candidates": candidates.collect::<Vec<_>>(),
            "excluded": plan.excluded,
        })
    }

    fn to_text(&self, all: bool, output: Option<&Path>) -> String {
        [self.heading(), self.table(all), self.excluded(all), self.verdict(output)]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn heading(&self) -> String {
        let Plan { model, num_devices, rows, tokens_per_row, .. } = &self.plan;
        let tokens = match tokens_per_row {
            1 => String::new(),
            tokens => format!(" of {tokens} tokens"),
        };
        let devices = if *num_devices == 1 { "device" } else { "devices" };
        let mut memory: Vec<Bytes> =
            self.cluster.hosts.iter().map(|host| host.device.memory).collect();
        memory.sort_unstable();
        memory.dedup();
        let memory = match (memory.first(), memory.last()) {
            (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
            (least, _) => least.copied().unwrap_or_default().to_string(),
        };
        let budget = self.budget.map(|budget| format!(", of which {budget} may be used"));
        format!(
            "{model}: {} parameters, {rows} rows{tokens} a step\n{num_devices} {devices} of {memory}{} over {}\n",
            grouped(self.num_parameters),
            budget.unwrap_or_default(),
            self.cluster.backend(),
        )
    }

    fn table(&self, all: bool) -> String {
        let unit = if self.plan.tokens_per_row == 1 { "rows/s" } else { "tokens/s" };
        let heading = format!(
            "{:20}{:22}{:>6}{:>12}{:>12}{unit:>12}  {}\n",
            "layout", "gradient_checkpointing", "micro", "memory", "step", ""
        );
        let told = self.told(all);
        let shown = if all { told.len() } else { SHOWN };
        let rows = told.iter().take(shown).map(|candidate| {
            let line = format!(
                "{:20}{:22}{:>6}{:>12}{:>12}{:>12}  {}",
                candidate.layout,
                candidate.policy,
                candidate.micro_batches,
                Bytes(candidate.memory.total()),
                duration(candidate.seconds.total()),
                grouped(self.plan.tokens_per_second(candidate) as u64),
                candidate.verdict,
            );
            line.trim_end().to_owned() + "\n"
        });
        let more = told.len().saturating_sub(shown);
        let more =
            if more == 0 { String::new() } else { format!("and {more} more layouts (--all)\n") };
        [heading.trim_end().to_owned() + "\n"].into_iter().chain(rows).chain([more]).collect()
    }

    /// The layouts that are none, by reason.
    fn excluded(&self, all: bool) -> String {
        let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
        for Excluded { layout, reason } in &self.plan.excluded {
            match reasons.iter_mut().find(|(known, _)| known == reason) {
                Some((_, layouts)) => layouts.push(layout.to_string()),
                None => reasons.push((reason, vec![layout.to_string()])),
            }
        }
        let shown = if all { reasons.len() } else { SHOWN / 2 };
        let lines = reasons.iter().take(shown).map(|(reason, layouts)| match &layouts[..] {
            [only] => format!("not {only}: {reason}\n"),
            [first, rest @ ..] => format!("not {first} and {} more: {reason}\n", rest.len()),
            [] => String::new(),
        });
        lines.collect()
    }

    fn verdict(&self, output: Option<&Path>) -> String {
        let Some(chosen) = self.plan.chosen() else { return String::new() };
        let Choice { parallel, gradient_checkpointing, batch_size, accumulation, .. } =
            Choice::of(&self.plan, chosen);
        let mut lines = vec![format!(
            "Chosen: train.parallel = \"{parallel}\", train.gradient_checkpointing = \"{gradient_checkpointing}\", \
             train.batch_size = {batch_size}, train.accumulation = {accumulation}\n"
        )];
        if chosen.layout.pipeline > 1 {
            let blocks: Vec<String> = chosen.blocks.iter().map(usize::to_string).collect();
            lines.push(format!("Blocks of the stages: {}\n", blocks.join(", ")));
        }
        if let Some(path) = output {
            let (program, path) = (program_name(), path.display());
            let start = match chosen.layout.num_ranks() {
                1 => String::new(),
                ranks => format!("{program} launch -n {ranks} -- "),
            };
            lines.push(format!("Next: {start}{program} train --plan {path} …\n"));
        }
        lines.concat()
    }
}

/// Seconds in the unit that fits.
fn duration(seconds: f64) -> String {
    match seconds {
        long if long >= 100.0 => format!("{long:.0} s"),
        long if long >= 1.0 => format!("{long:.2} s"),
        short => format!("{:.1} ms", 1e3 * short),
    }
}

/// What carries arrays between devices of which nothing is known.
fn likely_backend() -> Backend {
    if Backend::Nccl.is_available() { Backend::Nccl } else { Backend::Ring }
}
