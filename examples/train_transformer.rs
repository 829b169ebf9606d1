//! Trains the reference transformer to continue text, byte by byte, and lets it write some.
//!
//! ```text
//! cargo run --release -p mlx-train-examples --bin train_transformer
//! cargo run --release -p mlx-train-examples --bin train_transformer -- --text book.txt
//! ```
//!
//! Without `--text` it learns the sources of the mlx-rs package, which every machine has that built
//! this example. On two CPU cores it takes about three minutes. The held-out loss is compared with
//! the bigram entropy of the held-out text: what the best model that sees only the byte before could
//! reach.

use clap::Parser;
use mlx_train::{
    data::bigram_entropy,
    generate::{GenerateOptions, Sampler, generate},
    models::transformer::TransformerConfig,
    optim::{OptimizerConfig, StateFormat},
    prelude::*,
    profile::Memory,
    run::{RunFolder, RunRecorder, config_text},
    store::save_weights,
    summary::Summary,
    train::RunDescription,
};
use serde_json::json;
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// Train a byte-level transformer on a text
#[derive(Debug, Parser)]
struct Args {
    /// The text to learn instead of the sources of mlx-rs
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Where settings, weights, numbers and curves go
    #[arg(long, value_name = "DIR", default_value = "runs/transformer-text")]
    output: PathBuf,
    /// How many steps to train
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// What the sample at the end continues
    #[arg(long, default_value = "/// Returns the ")]
    prompt: String,
    /// From which all randomness follows
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// All Rust sources of the pinned mlx-rs package, in the order of their paths.
fn mlx_rs_sources() -> Result<Text> {
    let failed = |what: &str| Error::message(format!("cannot find the sources of mlx-rs: {what}"));
    let cargo = |args: &[&str]| -> Result<Vec<u8>> {
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(program)
            .args(args)
            .output()
            .map_err(|error| failed(&error.to_string()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(failed(&String::from_utf8_lossy(&output.stderr)))
    };
    // Without the platform Cargo would download packages for all others, too.
    let version = String::from_utf8_lossy(&cargo(&["-vV"])?).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or_else(|| failed("cargo -vV does not name the host"))?;
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let metadata = cargo(&[
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        host,
        "--manifest-path",
        manifest,
    ])?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&metadata).map_err(|error| failed(&error.to_string()))?;
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == "mlx-rs"))
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or_else(|| failed("cargo metadata does not list it; name a text with --text FILE"))?;

    let mut files = Vec::new();
    let folder = Path::new(manifest).with_file_name("src");
    collect(&folder, &mut files).map_err(|error| failed(&error.to_string()))?;
    files.sort();
    let sources: std::io::Result<Vec<Vec<u8>>> = files.iter().map(fs::read).collect();
    let sources = sources.map_err(|error| failed(&error.to_string()))?;
    Ok(Text::new(sources.concat(), "the sources of mlx-rs"))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let text = args.text.as_ref().map_or_else(mlx_rs_sources, Text::open)?;
    let (training, held_out) = text.split(0.1)?;
    let bigram = bigram_entropy(&held_out)?;

    let sizes = TransformerConfig {
        vocab_size: 256,
        hidden_size: 128,
        num_layers: 4,
        num_heads: 4,
        max_seq_len: 512,
        ..TransformerConfig::default()
    };
    let config = TrainConfig {
        steps: args.steps,
        batch_size: 16,
        learning_rate: 3e-3,
        warmup_steps: args.steps / 20,
        final_learning_rate: 3e-4,
        optimizer: OptimizerConfig::AdamW {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            state: StateFormat::F32,
        },
        eval_every: (args.steps / 4).max(1),
        seed: args.seed,
        ..TrainConfig::default()
    };
    let seq_len = 128;
    let sizes = ModelRegistry::get_model("transformer")?.resolve_config(sizes)?;
    let mut model = rng::scope(&rng::key(args.seed)?, || sizes.build())?;

    let folder = RunFolder::create(&args.output, true)?;
    folder.write_config(&config_text(&sizes, &config)?)?;
    let recorder = RunRecorder::new(folder.clone())
        .title("Transformer on text")
        .unit("bytes")
        .perplexity()
        .reference("bigram entropy", bigram);
    let began = Instant::now();
    Memory::reset_peak()?;
    let held_out_chunks = held_out.chunks(seq_len)?;
    let trainer = Trainer::new(&mut model, config)?
        .evaluate_on(&held_out_chunks)
        .checkpoints(folder.new_checkpoints()?)
        .describe(RunDescription::new("transformer", json!({ "model": sizes.to_section() })))
        .on_event(|event| recorder.record(event));
    let history = recorder.end(trainer.run(training.windows(seq_len)?))?.history;
    save_weights(model.as_ref(), folder.weights())?;
    let summary = Summary::new("Transformer on text")
        .history(&history, began.elapsed(), Memory::now()?.peak_bytes)
        .row("bigram entropy", format!("{bigram:.4}"))
        .row("run folder", folder.path().display());
    print!("{summary}");
    write_sample(model.as_mut(), &args)
}

fn write_sample(model: &mut dyn BaseModel, args: &Args) -> Result<()> {
    let Some(model) = model.as_language_model() else {
        return Err(Error::message("the transformer does not generate text"));
    };
    let prompt: Vec<u32> = args.prompt.bytes().map(u32::from).collect();
    let options = GenerateOptions {
        max_tokens: 300,
        sampler: Sampler { temperature: 0.7, ..Sampler::greedy() },
        seed: args.seed,
        ..GenerateOptions::default()
    };
    let tokens = generate(model, &prompt, &options, |_| ControlFlow::Continue(()))?;
    let bytes: Vec<u8> = tokens.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
    println!("\nA sample:\n{}{}", args.prompt, String::from_utf8_lossy(&bytes));
    Ok(())
}
