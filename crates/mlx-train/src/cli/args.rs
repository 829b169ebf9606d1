//! The command line, as clap sees it.

use crate::{
    checkpoint::CheckpointPolicy,
    data::Prepare,
    distributed::{Backend, DistributedError, Parallelism},
    profile::Bytes,
};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::{ffi::OsString, path::PathBuf, str::FromStr};

/// The command line of a program called `program`, which its examples name.
pub(super) fn command(program: &str) -> clap::Command {
    let examples = |lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| format!("\n  {program} {line}")).collect();
        format!("Examples:{}", lines.concat())
    };
    Cli::command()
        .mut_subcommand("train", |train| {
            train.after_help(examples(&[
                "train --model transformer --set model.preset=tiny --set data.path=book.txt",
                "train --config train.toml --output runs/first",
                "train --config train.toml --weights runs/first --set model.lora.rank=8",
                "train --resume runs/first",
                "train --resume runs/first --set train.learning_rate=1e-4 --allow train.learning_rate",
            ]))
        })
        .mut_subcommand("profile", |profile| {
            profile.after_help(examples(&[
                "profile --model transformer --set model.preset=small --batch 8 --seq 256",
                "profile --config train.toml --top 20",
            ]))
        })
        .mut_subcommand("estimate", |estimate| {
            estimate.after_help(examples(&[
                "estimate --model transformer --set model.preset=gpt2-small --batch 8 --seq 1024",
                "estimate --config train.toml --limit 16GiB --json",
                "estimate --model mlp --input-shape 784 --batch 512",
            ]))
        })
        .mut_subcommand("plan", |plan| {
            plan.after_help(examples(&[
                "plan --model transformer --set model.preset=llama-8b --cluster macs.toml --output plan.json",
                "plan --config train.toml --devices 8 --backend nccl --budget 64GiB --dry-run",
                "plan --measure --cluster here.toml",
            ]))
        })
        .mut_subcommand("schedule", |schedule| {
            schedule.after_help(examples(&[
                "schedule --config train.toml --plot schedule.png",
                "schedule --set train.schedule.kind=wsd --set train.warmup_steps=100",
            ]))
        })
        .mut_subcommand("data", |data| {
            data.mut_subcommand("prepare", |prepare| {
                prepare.after_help(examples(&[
                    "data prepare book.txt --output tokens",
                    "data prepare web-*.jsonl --output tokens --tokenizer tokenizer.json --held-out 0.01",
                ]))
            })
        })
        .mut_subcommand("launch", |launch| {
            launch.after_help(examples(&[
                "launch -n 2 -- ./my-model",
                "launch -n 4 --port 5000 -- ./my-model",
                "launch --hostfile hosts.json --cwd /Users/me/work -- target/release/my-model train",
                "launch -n 4 --backend mpi -- ./my-model",
            ]))
        })
        .mut_subcommand("generate", |generate| {
            generate.after_help(examples(&[
                "generate runs/first --prompt 'fn main() {' --max-tokens 200",
                "generate runs/first --temperature 0",
            ]))
        })
        .mut_subcommand("checkpoint", |checkpoint| {
            checkpoint.after_help(examples(&[
                "checkpoint list runs/first",
                "checkpoint verify runs/first/checkpoints/step-00001000",
                "checkpoint prune runs/first --keep-last 1 --keep-best 1 --dry-run",
                "checkpoint export runs/first --output exported --dtype bf16",
            ]))
        })
}

/// Train the models that are linked into this program, on Apple MLX.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List and describe the registered models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Write, check and show config files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make token files of texts, and tell what they hold
    #[command(subcommand)]
    Data(DataCommand),
    /// Train a model by name
    Train(TrainArgs),
    /// Measure what each layer of a model costs in training
    ///
    /// Each layer is run by itself, forward and backward. `train --profile` records a run instead.
    Profile(ProfileArgs),
    /// Tell how much memory training takes, and which batch sizes and checkpoint policies fit
    ///
    /// Nothing is computed and the model has no weights, so one that fits no machine is estimated as well.
    Estimate(EstimateArgs),
    /// Tell which way to split a step over devices is the fastest that fits
    ///
    /// Every layout of data, tensor and pipeline parallelism is predicted under every checkpoint policy. Nothing is
    /// computed, and the devices need not be there: a file describes them.
    Plan(PlanArgs),
    /// Show the learning rate over the steps of a run
    ///
    /// Step 0 is the first update. A bar marks a step at which another curve begins.
    Schedule(ScheduleArgs),
    /// Continue a text with a trained model
    Generate(GenerateArgs),
    /// Run a command as several ranks, here or on other hosts, which end together
    ///
    /// What a rank writes comes behind its number. When one fails, is killed or stays stopped, the others are ended,
    /// and launch exits with its status. Ctrl-C asks all ranks to stop; a second one kills them. Over ssh, the program
    /// has to be on each host, under the same path.
    Launch(LaunchArgs),
    /// Draw the curves of a run, also of one that still grows or was killed
    Plot(PlotArgs),
    /// Write the report of a run anew: one page that opens without network
    Report(ReportArgs),
    /// List, verify, thin out and export the checkpoints of a run
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell to complete in
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ModelsCommand {
    /// List models by name, in natural order
    List {
        /// Only names that match this glob, such as 'trans*'
        #[arg(default_value = "*")]
        pattern: String,
        /// Print a JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Tell what a model is and which settings it takes
    Describe {
        /// A model's name or alias
        name: String,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of a model's config
    Schema {
        /// A model's name or alias
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Write a config file with every setting, its default and its meaning
    Init {
        /// A model's name or alias
        name: String,
        /// The file to write; refuses to replace one without --force
        #[arg(short, long, default_value = "train.toml")]
        output: PathBuf,
        /// Start from this preset of the model
        #[arg(long)]
        preset: Option<String>,
        /// Replace the file if it exists
        #[arg(long)]
        force: bool,
    },
    /// Check a config file and name everything that is wrong with it
    Check {
        #[command(flatten)]
        run: RunSource,
    },
    /// Print the resolved config: defaults, file and overrides together
    Show {
        #[command(flatten)]
        run: RunSource,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        format: ShowFormat,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Turn texts into token files, which training reads without loading them
    ///
    /// Texts are whole files (.txt and others), lines of .jsonl files, or rows of .parquet files, each a
    /// document. When it is interrupted, the same command goes on after the last finished token file.
    Prepare(PrepareArgs),
    /// Tell what a folder of token files holds
    Info {
        /// The folder, the output of `data prepare`
        folder: PathBuf,
        /// Read every file and compare it with its hash
        #[arg(long)]
        verify: bool,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    /// The files to read, in this order
    #[arg(required = true, value_name = "INPUT")]
    pub(super) inputs: Vec<PathBuf>,
    /// The folder of token files; it is made if it is not there
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: PathBuf,
    /// A tokenizer.json of Hugging Face; without one, tokens are bytes
    #[arg(short, long, value_name = "FILE")]
    pub(super) tokenizer: Option<PathBuf>,
    /// The key of the text in .jsonl files, the column in .parquet files
    #[arg(long, default_value = "text")]
    pub(super) field: String,
    /// How many tokens a file has; so many are in memory at once
    #[arg(long, value_name = "N", default_value_t = Prepare::SHARD_TOKENS)]
    pub(super) shard_tokens: usize,
    /// Which share of the documents is held out of training
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(super) held_out: f64,
    /// How many threads make tokens; the result is the same [default: one a core]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Replace token files of other inputs or settings in the same folder
    #[arg(long)]
    pub(super) force: bool,
}

/// Where a run's settings come from.
#[derive(Debug, Clone, Args)]
pub(super) struct RunSource {
    /// A TOML, JSON or YAML file with the sections [model], [train] and [data]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The model to train; wins over `name` in the file's [model] section
    #[arg(short, long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// Override one setting (repeatable), for example train.steps=500
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
}

impl RunSource {
    /// Whether it says anything of a run.
    pub(super) fn names_a_model(&self) -> bool {
        self.config.is_some() || self.model.is_some()
    }
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum ShowFormat {
    #[default]
    Toml,
    Json,
}

#[derive(Debug, Clone, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    pub(super) run: RunSource,
    /// The run folder for config, weights, metrics and plots [default: runs/<model>-<config hash>]
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: Option<PathBuf>,
    /// Replace an earlier run in the same folder, with its checkpoints
    #[arg(long)]
    pub(super) force: bool,
    /// Start from these weights: a safetensors file, a folder from Hugging Face, a run or a checkpoint;
    /// adapters (model.lora) start afresh where there are none
    #[arg(long, value_name = "PATH", conflicts_with = "resume")]
    pub(super) weights: Option<PathBuf>,
    /// Go on with a run from its latest checkpoint, or from the checkpoint that is named; `latest`, or
    /// nothing, is the run in --output or else the one below runs/ that saved last
    #[arg(
        long,
        value_name = "RUN|latest",
        num_args = 0..=1,
        default_missing_value = LATEST,
        conflicts_with = "force"
    )]
    pub(super) resume: Option<PathBuf>,
    /// Let this setting differ from the checkpoint's (repeatable), for example train.seed
    #[arg(long, value_name = "FIELD", requires = "resume")]
    pub(super) allow: Vec<String>,
    /// Try everything once: three steps, an evaluation and a checkpoint, of which nothing stays
    #[arg(long, conflicts_with_all = ["resume", "output", "force"])]
    pub(super) fast_dev_run: bool,
    /// Which blocks compute twice in place of keeping activations: none, full, every=2, layers=[0,3],
    /// selective=[mlp,attention] or auto='12 GiB'
    #[arg(long, value_name = "POLICY", help_heading = "Less memory for more time")]
    pub(super) gradient_checkpointing: Option<CheckpointPolicy>,
    /// Split the run over ranks: dp=2, fsdp=4, tp=2, pp=2, or several as in dp=2,tp=2; `launch` starts them, and
    /// without this they share each batch (dp). `auto` measures the ranks, plans, and trains in the fastest way
    #[arg(long, value_name = "LAYOUT|auto", help_heading = "Several processes")]
    pub(super) parallel: Option<Layout>,
    /// Take the layout, the checkpoint policy, the batch size and the micro-batches from this file, which
    /// `plan --output` has written
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Several processes",
        conflicts_with_all = ["parallel", "gradient_checkpointing", "resume", "find_batch_size"]
    )]
    pub(super) plan: Option<PathBuf>,
    /// Try which batch size is the largest that runs, each in a process of its own, and train with it
    #[arg(long, conflicts_with = "resume", help_heading = "Less memory for more time")]
    pub(super) find_batch_size: bool,
    /// Take a few steps with this batch size, and print what they needed: a try of --find-batch-size
    #[arg(long, hide = true, value_name = "ROWS")]
    pub(super) try_batch_size: Option<usize>,
    /// Train on the first N batches again and again, to see whether the model can learn them
    #[arg(long, value_name = "N")]
    pub(super) overfit_batches: Option<u64>,
    /// Record N steps after a few that warm up, and every evaluation and save, in trace.json of the run
    /// folder, which Perfetto opens; measures the layers after them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(super) profile: Option<u64>,
    /// With Metal, capture the GPU in the first of these steps into this .gputrace, which Xcode opens
    #[arg(long, value_name = "FILE", requires = "profile")]
    pub(super) metal_capture: Option<PathBuf>,
    #[command(flatten)]
    pub(super) memory: MemoryArgs,
}

/// What `--parallel` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// The fastest that fits the ranks that there are.
    Auto,
    /// This one.
    Given(Parallelism),
}

impl FromStr for Layout {
    type Err = DistributedError;

    fn from_str(text: &str) -> Result<Self, DistributedError> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Given) }
    }
}

/// The settings of `[train.memory]` as flags.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Memory, as in [train.memory]")]
pub(super) struct MemoryArgs {
    /// How much memory the run should need at most, such as 12GiB
    #[arg(long, value_name = "SIZE")]
    memory_budget: Option<Bytes>,
    /// From how much memory on MLX frees its cache and waits
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<Bytes>,
    /// How much freed memory MLX keeps
    #[arg(long, value_name = "SIZE")]
    cache_limit: Option<Bytes>,
    /// With Metal, how much is never moved to disk
    #[arg(long, value_name = "SIZE")]
    wired_limit: Option<Bytes>,
    /// How many operations a command buffer or CUDA graph has
    #[arg(long, value_name = "N")]
    max_ops_per_buffer: Option<u32>,
    /// How much it reads, in 2^20 elements; less saves memory and costs time
    #[arg(long, value_name = "N")]
    max_mb_per_buffer: Option<u32>,
}

impl MemoryArgs {
    /// The flags as overrides of settings.
    pub(super) fn overrides(&self) -> Vec<String> {
        let sizes = [
            ("memory_budget", self.memory_budget),
            ("memory_limit", self.memory_limit),
            ("cache_limit", self.cache_limit),
            ("wired_limit", self.wired_limit),
        ];
        let numbers = [
            ("max_ops_per_buffer", self.max_ops_per_buffer),
            ("max_mb_per_buffer", self.max_mb_per_buffer),
        ];
        let sizes =
            sizes.map(|(key, size)| (key, size.map(|Bytes(bytes)| format!("'{bytes} bytes'"))));
        let numbers = numbers.map(|(key, number)| (key, number.map(|number| number.to_string())));
        let given = sizes.into_iter().chain(numbers).filter_map(|(key, value)| Some((key, value?)));
        given.map(|(key, value)| format!("train.memory.{key}={value}")).collect()
    }
}

/// What `--resume` means without a run.
pub(super) const LATEST: &str = "latest";

#[derive(Debug, Args)]
pub(super) struct ProfileArgs {
    #[command(flatten)]
    pub(super) run: RunSource,
    /// How many rows a batch has [default: that of the config]
    #[arg(short, long, value_name = "N")]
    pub(super) batch: Option<usize>,
    /// How many tokens a row has [default: that of the config]
    #[arg(long, value_name = "N")]
    pub(super) seq: Option<usize>,
    /// How many layers are shown
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(super) top: usize,
    /// How many times each layer is measured; the fastest counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive)]
    pub(super) repeats: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) memory: MemoryArgs,
}

/// A run and the rows of its steps, neither of which has to be there yet.
#[derive(Debug, Args)]
pub(super) struct StepSource {
    #[command(flatten)]
    pub(super) run: RunSource,
    /// How many rows a micro-batch has on one device; a step has train.accumulation times as many
    /// [default: that of the config]
    #[arg(short, long, value_name = "N")]
    pub(super) batch: Option<usize>,
    /// How many tokens a row has [default: that of the config]
    #[arg(long, value_name = "N")]
    pub(super) seq: Option<usize>,
    /// For a model without tokens, the shape of one row, such as 28,28 [default: that of the data]
    #[arg(long, value_name = "LENGTHS", value_delimiter = ',')]
    pub(super) input_shape: Vec<i32>,
    /// The shape of its target, if that is not a class
    #[arg(long, value_name = "LENGTHS", value_delimiter = ',', requires = "input_shape")]
    pub(super) target_shape: Vec<i32>,
}

#[derive(Debug, Args)]
pub(super) struct EstimateArgs {
    #[command(flatten)]
    pub(super) step: StepSource,
    /// What should fit, such as 16GiB [default: what the device has]
    #[arg(long, value_name = "SIZE")]
    pub(super) limit: Option<Bytes>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) step: StepSource,
    /// The devices and links, a TOML or JSON file; --measure writes it
    #[arg(long, value_name = "FILE", conflicts_with = "devices")]
    pub(super) cluster: Option<PathBuf>,
    /// So many devices like this one, with rough figures for their links
    #[arg(short = 'n', long, value_name = "N", value_parser = positive)]
    pub(super) devices: Option<usize>,
    /// What connects these devices: ring, mpi, nccl or jaccl [default: nccl where it is there, or else ring]
    #[arg(long, requires = "devices")]
    pub(super) backend: Option<Backend>,
    /// How much memory of each device may be used, such as 64GiB [default: what it has]
    #[arg(long, value_name = "SIZE")]
    pub(super) budget: Option<Bytes>,
    /// Measure the devices of all ranks and what connects them first; run it by `launch`
    #[arg(long, conflicts_with_all = ["devices", "dry_run"])]
    pub(super) measure: bool,
    /// Only look at the cluster that is described, and tell how long planning took
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) told: PlanOutput,
}

/// How much of a plan is told, and where.
#[derive(Debug, Args)]
pub(super) struct PlanOutput {
    /// Tell every candidate, not only the best of each layout
    #[arg(long)]
    pub(super) all: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,
    /// Write the JSON, which `train --plan` takes, to this file
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ScheduleArgs {
    /// A config file, of which the section [train] counts
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Override one setting (repeatable), for example train.schedule=linear
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// How many rows the data has, which train.epochs needs
    #[arg(long, value_name = "NUMBER")]
    pub(super) rows: Option<usize>,
    /// Draw the curve into this .png or .svg
    #[arg(short, long, value_name = "FILE")]
    pub(super) plot: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlotArgs {
    /// The folder of a run
    pub(super) run: PathBuf,
    /// Where the pictures go [default: the folder `plots` of the run]
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The folder of a run
    pub(super) run: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// The folder of a run, or of one of its checkpoints
    pub(super) run: PathBuf,
    /// The text to continue
    #[arg(short, long, default_value = "\n")]
    pub(super) prompt: String,
    /// How many tokens to add at most [default: 256, or what the model has room for]
    #[arg(short = 'n', long, allow_negative_numbers = true)]
    pub(super) max_tokens: Option<usize>,
    /// 0 always takes the likeliest token; higher values are bolder
    #[arg(short, long, default_value_t = 0.8, allow_negative_numbers = true)]
    pub(super) temperature: f32,
    /// Sample among this many likeliest tokens only
    #[arg(long, allow_negative_numbers = true)]
    pub(super) top_k: Option<usize>,
    /// Sample among the likeliest tokens that together have this probability
    #[arg(long, allow_negative_numbers = true)]
    pub(super) top_p: Option<f32>,
    /// Seed of the sampling
    #[arg(long, default_value_t = 42, allow_negative_numbers = true)]
    pub(super) seed: u64,
}

#[derive(Debug, Subcommand)]
pub(super) enum CheckpointCommand {
    /// List the checkpoints of a run by step
    List {
        /// The folder of a run, or its `checkpoints`
        path: PathBuf,
        /// Print a JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Compare every byte of checkpoints with what was saved
    Verify {
        /// The folder of a run, its `checkpoints`, or the folder of a step
        path: PathBuf,
        /// Look at names, sizes and headers only, which does not find flipped bits
        #[arg(long)]
        quick: bool,
    },
    /// Remove the checkpoints of a run that need not stay
    ///
    /// The latest, the best and the damaged ones are never removed.
    Prune {
        /// The folder of a run, or its `checkpoints`
        path: PathBuf,
        /// How many of those that were saved last stay
        #[arg(long, value_name = "N", value_parser = positive)]
        keep_last: usize,
        /// How many of the best stay beside them
        #[arg(long, value_name = "N", default_value_t = 1)]
        keep_best: usize,
        /// Only tell what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Write the weights as model.safetensors and config.json, for other tools
    Export {
        /// The folder of a step, or that of a run for its latest
        path: PathBuf,
        /// The folder to write to
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Take the averaged weights (EMA) instead of those of the last step
        #[arg(long, visible_alias = "ema")]
        averaged: bool,
        /// Convert floats to this dtype [default: leave each as it is]
        #[arg(long, value_enum)]
        dtype: Option<ExportDtype>,
        /// Replace the files if they exist
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ExportDtype {
    F32,
    F16,
    Bf16,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it must be at least 1".into()),
        Ok(number) => Ok(number),
    }
}

#[derive(Debug, Args)]
pub(super) struct LaunchArgs {
    /// How many ranks [default: one for each host of the hostfile]
    #[arg(short, long = "num-ranks", value_name = "N", required_unless_present = "hostfile")]
    pub(super) num_ranks: Option<usize>,
    /// Run a rank on each host of this JSON file, the one that `mlx.launch` reads, by ssh
    #[arg(long, value_name = "FILE")]
    pub(super) hostfile: Option<PathBuf>,
    /// What connects them: ring, mpi, nccl or jaccl [default: what the hostfile says, or ring]
    #[arg(long)]
    pub(super) backend: Option<Backend>,
    /// The port of rank 0; the others have the ones after it [default: any that are free, or 32323 over ssh]
    #[arg(long)]
    pub(super) port: Option<u16>,
    /// A variable for the environment of all ranks (may be repeated)
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub(super) variables: Vec<String>,
    /// Run the ranks in this folder of each host [default: the current one, where it is there]
    #[arg(long, value_name = "FOLDER")]
    pub(super) cwd: Option<PathBuf>,
    /// For how many seconds a rank may stay stopped, and how many ranks have to end when one has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(super) limit: u64,
    /// The command, a program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}
