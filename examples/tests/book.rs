//! The code of the book, chapter by chapter; `docs/src/*.md` include it by its anchors.

use mlx_train::{
    chart::Chart,
    checkpoint,
    config::{Document, Format},
    data::{
        Batch, DataLoader, Dataset, InMemory, LoaderOptions, Packing, Padding, Position, Prepare,
        Sequences, Tokenizer,
    },
    generate::{GenerateOptions, Sampler, generate},
    mlx_rs::{builder::Builder as _, random},
    models::{mlp::MlpConfig, transformer::TransformerConfig},
    optim::{
        AdamW, Coefficients, Frozen, Group, Optimizer, OptimizerConfig, Parameter, ParameterGroups,
        Schedule, StateFormat, WeightDecay,
    },
    prelude::*,
    run::{RunFolder, RunRecorder},
    store::{
        Check, CheckpointConfig, Checkpoints, LoadOptions, Location, Saver, Snapshot, load_weights,
        save_weights,
    },
    train::{Event, Outcome, Resume, StopSignal, accuracy},
};
use serde_json::json;
use std::ops::ControlFlow;

fn small_transformer() -> Result<Box<dyn BaseModel>> {
    // ANCHOR: seed
    let model = rng::scope(&rng::key(42)?, || {
        ModelRegistry::get_model("transformer")?.build(["preset=tiny", "num_layers=1"])
    })?;
    // ANCHOR_END: seed
    Ok(model)
}

// ANCHOR: test
#[test]
fn logits_have_the_vocabulary_as_their_last_axis() -> Result<()> {
    let mut model = small_transformer()?;
    let tokens = Array::from_slice(&[1, 2, 3, 4, 5, 6], &[2, 3]);
    let logits = model.forward(&tokens)?;
    assert_shape!(logits, [2, 3, 256]);
    let loss = model.loss_fn(&tokens, &tokens)?;
    assert!(loss.value.try_item_exact::<f32>()?.is_finite());
    Ok(())
}
// ANCHOR_END: test

#[test]
fn configs() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|error| Error::message(error.to_string()))?;
    let path = folder.path().join("model.toml");
    // ANCHOR: config
    let config = TransformerConfig { hidden_size: 128, num_heads: 4, ..Default::default() };
    config.save(&path)?; // .toml, .json or .yaml

    let config = TransformerConfig::load(&path)?.with_overrides(["num_layers=2", "dropout=0"])?;
    assert_eq!((config.hidden_size, config.num_layers), (128, 2));
    // ANCHOR_END: config

    // ANCHOR: config_error
    let refused = TransformerConfig::load(&path)?.with_overrides(["num_heads=3"]);
    assert!(refused.is_err()); // 128 is no multiple of 3
    // ANCHOR_END: config_error
    Ok(())
}

// ANCHOR: config_enum
/// How the learning rate falls.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
enum Decay {
    #[config(default)]
    Constant,
    Cosine {
        /// In how many steps it rises before.
        #[config(default = 100, range = 0..)]
        warmup: i64,
    },
}
// ANCHOR_END: config_enum

/// A config with such an enum.
#[derive(Debug, Clone, ModelConfig)]
struct DecayConfig {
    decay: Decay,
}

#[test]
fn enums_in_a_config() -> Result<()> {
    for (text, decay) in [
        ("", Decay::Constant),
        ("decay = \"constant\"", Decay::Constant),
        ("decay = { kind = \"cosine\", warmup = 200 }", Decay::Cosine { warmup: 200 }),
    ] {
        assert_eq!(DecayConfig::parse(text, Format::Toml)?.decay, decay);
    }
    Ok(())
}

#[test]
fn registry() -> Result<()> {
    let config = MlpConfig { hidden_sizes: vec![32], ..MlpConfig::default() };
    // ANCHOR: registry
    let entry = ModelRegistry::get_model("mlp")?;
    let from_defaults = entry.build(())?;
    let from_overrides = entry.build(["hidden_sizes=[32]", "dropout=0.1"])?;
    let from_its_config = entry.build(config)?;
    // ANCHOR_END: registry
    for model in [from_defaults, from_overrides, from_its_config] {
        assert!(model.num_parameters() > 0);
    }

    // ANCHOR: list
    for entry in ModelRegistry::list("trans*")? {
        println!("{}: {}", entry.name(), entry.summary());
    }
    println!("{}", ModelRegistry::describe("mlp")?);
    // ANCHOR_END: list

    // ANCHOR: wrong_config
    let refused = entry.build(TransformerConfig::default()).map(|_| ());
    assert!(refused.is_err_and(|error| error.to_string().contains("MlpConfig")));
    // ANCHOR_END: wrong_config
    Ok(())
}

// ANCHOR: dataset
/// Points of the plane, labelled by the side of a line that they lie on.
#[derive(Debug)]
struct HalfPlanes;

impl Dataset for HalfPlanes {
    fn len(&self) -> usize {
        1000
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        let points: Vec<f32> = rows
            .iter()
            .flat_map(|&row| [(row % 37) as f32 / 37.0, (row % 41) as f32 / 41.0])
            .collect();
        let labels: Vec<i32> =
            points.chunks(2).map(|point| i32::from(point[0] > point[1])).collect();
        let num_rows = rows.len() as i32;
        Ok(Batch::new(
            Array::from_slice(&points, &[num_rows, 2]),
            Array::from_slice(&labels, &[num_rows]),
        ))
    }
}
// ANCHOR_END: dataset

#[test]
fn training() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|error| Error::message(error.to_string()))?;
    let sizes = ["input_size=2", "output_size=2", "hidden_sizes=[16]"];
    let mut model = rng::scope(&rng::key(1)?, || ModelRegistry::get_model("mlp")?.build(sizes))?;
    // ANCHOR: train
    let config = TrainConfig { steps: 150, learning_rate: 0.02, ..TrainConfig::default() };
    let trained = Trainer::new(&mut model, config)?
        .evaluate_on(&HalfPlanes)
        .metric("accuracy", accuracy)
        .on_event(|event| {
            if let Event::Step(report) = event {
                println!("{:4}  {:.3}", report.step, report.loss);
            }
        })
        .run(HalfPlanes)?;
    Chart::loss("Half planes", &trained.history).save(folder.path().join("loss.svg"))?;
    // ANCHOR_END: train
    let evaluation =
        trained.history.last_held_out().ok_or_else(|| Error::message("no evaluation"))?;
    assert!(evaluation.metrics[0].1 > 0.9, "{evaluation:?}");
    Ok(())
}

#[test]
fn recording() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|error| Error::message(error.to_string()))?;
    let path = folder.path().join("half-planes");
    let sizes = ["input_size=2", "output_size=2", "hidden_sizes=[4]"];
    let mut model = rng::scope(&rng::key(1)?, || ModelRegistry::get_model("mlp")?.build(sizes))?;
    let config = TrainConfig { steps: 20, ..TrainConfig::default() };
    // ANCHOR: record
    let recorder = RunRecorder::new(RunFolder::create(&path, false)?).unit("points");
    let trainer = Trainer::new(&mut model, config)?.on_event(|event| recorder.record(event));
    let outcome = recorder.end(trainer.run(HalfPlanes))?;
    // ANCHOR_END: record
    assert_eq!(outcome.step, 20);
    assert!(path.join("index.html").is_file());
    Ok(())
}

#[test]
fn a_run_that_stops_goes_on() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|error| Error::message(error.to_string()))?;
    let folder = folder.path().join("checkpoints");
    let sizes = ["input_size=2", "output_size=2", "hidden_sizes=[16]"];
    let build = || rng::scope(&rng::key(1)?, || ModelRegistry::get_model("mlp")?.build(sizes));
    let config = TrainConfig { steps: 20, ..TrainConfig::default() };
    let mut model = build()?;
    // ANCHOR: checkpoints
    let stop = StopSignal::new(); // give clones to a signal handler, or to another thread
    let asked = stop.clone();
    let trained = Trainer::new(&mut model, config.clone())?
        .checkpoints(Checkpoints::create(&folder)?)
        .stop_on(stop)
        .on_event(|event| {
            if matches!(event, Event::Step(_)) {
                asked.request()
            }
        })
        .run(HalfPlanes)?;
    let Outcome::Stopped { checkpoint: Some(checkpoint), .. } = trained.outcome else {
        return Err(Error::message("the run did not stop"));
    };
    println!("goes on from {}", checkpoint.display());
    // ANCHOR_END: checkpoints
    assert_eq!(trained.step, 11);

    let mut model = build()?;
    // ANCHOR: resume
    let trained = Trainer::new(&mut model, config.clone())?
        .checkpoints(Checkpoints::open(&folder)?)
        .resume(Resume::Latest) // or Best, Step(1000), Path("…/step-00001000".into())
        .run(HalfPlanes)?;
    // ANCHOR_END: resume
    assert_eq!((trained.step, trained.outcome), (20, Outcome::Completed));

    let mut model = build()?;
    // ANCHOR: allow
    let config = TrainConfig { learning_rate: 1e-4, ..config };
    let trained = Trainer::new(&mut model, config)?
        .checkpoints(Checkpoints::open(&folder)?)
        .resume(Resume::Step(11))
        .allow(["train.learning_rate"])
        .run(HalfPlanes)?;
    // ANCHOR_END: allow
    assert_eq!(trained.step, 20);
    Ok(())
}

#[test]
fn weights_and_generation() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|error| Error::message(error.to_string()))?;
    let path = folder.path().join("weights.safetensors");
    let mut model = small_transformer()?;
    // ANCHOR: weights
    save_weights(&model, &path)?;
    load_weights(&mut model, &path, &LoadOptions::default())?;
    // ANCHOR_END: weights

    // ANCHOR: generate
    let options = GenerateOptions {
        max_tokens: 20,
        sampler: Sampler { temperature: 0.8, top_k: Some(50), ..Sampler::greedy() },
        seed: 7,
        ..GenerateOptions::default()
    };
    let prompt: Vec<u32> = "fn main".bytes().map(u32::from).collect();
    let model = model.as_language_model().ok_or_else(|| Error::message("no language model"))?;
    let tokens = generate(model, &prompt, &options, |_token| ControlFlow::Continue(()))?;
    // ANCHOR_END: generate
    assert_eq!(tokens.len(), 20);
    Ok(())
}

#[test]
fn checkpoints() -> Result<()> {
    let run = tempfile::tempdir().map_err(|error| Error::message(error.to_string()))?;
    let run = run.path();
    let mut model = small_transformer()?;
    let momentum = Array::from_slice(&[0.5_f32], &[1]);
    // ANCHOR: checkpoint_save
    let checkpoints = Checkpoints::create(run.join("checkpoints"))?;
    let mut saver = Saver::new(checkpoints, &CheckpointConfig::default())?;
    for step in [1000_u32, 2000] {
        // … train, then:
        saver.save(|| {
            let weights = model.parameters().flatten();
            let weights = weights.iter().map(|(name, &array)| (&**name, array));
            Ok(Snapshot {
                model: "transformer".into(),
                progress: json!({ "rows": 32 * step }),
                metric: Some(1.0 / f64::from(step)),
                ..Snapshot::take(u64::from(step), weights, [("momentum", &momentum)])?
            })
        })?;
        for outcome in saver.finished() {
            outcome.result?; // or tell that it failed, and go on
        }
    }
    let outcomes = saver.finish();
    // ANCHOR_END: checkpoint_save
    assert!(outcomes.into_iter().all(|outcome| outcome.result.is_ok()));

    // ANCHOR: checkpoint_load
    let checkpoints = Checkpoints::open(run.join("checkpoints"))?;
    let loaded = checkpoints.load_latest(Check::Hashes)?;
    assert_eq!((loaded.manifest.step, &loaded.progress["rows"]), (2000, &json!(64_000)));

    // Weights alone: of the best checkpoint, or of the latest of a run.
    let best = checkpoints.best()?.ok_or_else(|| Error::message("nothing was measured"))?;
    load_weights(&mut model, &best.path, &LoadOptions::default())?;
    load_weights(&mut model, run, &LoadOptions::default())?;

    // What a path that a person typed stands for: a run, its checkpoints, or one of them.
    let manifest = Location::find(run)?.entry()?.verify(Check::Hashes)?;
    // ANCHOR_END: checkpoint_load
    assert_eq!(manifest.step, 2000);
    Ok(())
}

#[test]
fn shapes() -> Result<()> {
    // ANCHOR: shapes
    fn attend(q: &Array, k: &Array, head_dim: i32) -> Result<Array> {
        assert_shape!(q: [batch, heads, queries, {head_dim}], k: [batch, heads, keys, {head_dim}]);
        let scores = q.matmul(k.transpose_axes(&[0, 1, 3, 2])?)?;
        assert_shape!(scores, [{ batch }, { heads }, { queries }, { keys }]);
        Ok(scores)
    }
    // ANCHOR_END: shapes
    let key = rng::key(0)?;
    let random = |shape: &[i32]| random::normal::<f32>(shape, None, None, Some(&key));
    attend(&random(&[2, 4, 5, 8])?, &random(&[2, 4, 7, 8])?, 8)?;
    let refused = attend(&random(&[2, 4, 5, 8])?, &random(&[3, 4, 7, 8])?, 8);
    let message = refused.map_or_else(|error| error.to_string(), |_| String::new());
    // The book quotes this.
    let expected = "`k` has shape [3, 4, 7, 8], expected [batch, heads, keys, {head_dim}]: axis 0 is \
                    3, not 2 (batch = 2, heads = 4, queries = 5, head_dim = 8, keys = 7)";
    assert!(message.contains(expected), "{message}");
    Ok(())
}

#[test]
fn data_in_memory_is_split_by_a_seed() -> Result<()> {
    let features = Array::from_slice(&[0.0_f32; 20], &[10, 2]);
    let data = InMemory::with_labels(features, &[0, 1, 0, 1, 0, 1, 0, 1, 0, 1], 2, "the book")?;
    let (training, held_out) = data.split(0.2, 42)?;
    assert_eq!((training.len(), held_out.len()), (8, 2));
    Ok(())
}

#[test]
fn losses_without_logits_and_adapters() -> Result<()> {
    let hidden = Array::from_slice(&[0.1_f32, 0.2, 0.3, 0.4, 0.5, 0.6], &[1, 3, 2]);
    let output_layer = Linear::new(2, 5)?;
    let targets = Array::from_slice(&[4, -100, 1], &[1, 3]);
    // ANCHOR: linear_cross_entropy
    let options = CrossEntropy { ignore_index: Some(-100), ..Default::default() };
    let loss = loss::linear_cross_entropy(&hidden, &output_layer.weight, &targets, &options, None)?;
    // ANCHOR_END: linear_cross_entropy
    assert!(loss.weight.try_item_exact::<f32>().is_ok_and(|weight| weight > 1.5));

    let text = r#"
# ANCHOR: lora_toml
[model]
name = "transformer"
preset = "llama-1b"
lora = { rank = 8, alpha = 16.0, targets = ["q_proj", "v_proj"] }
# ANCHOR_END: lora_toml
"#;
    let mut model = Document::parse(text, Format::Toml)?.section("model").unwrap_or_default();
    model.take_string("name")?;
    let config = TransformerConfig::from_document(&model)?;
    assert!(config.lora.is_some_and(|lora| lora.targets.len() == 2));
    Ok(())
}

#[test]
fn optimizers_and_schedules() -> Result<()> {
    let text = r#"
# ANCHOR: optimizer_toml
[train]
learning_rate = 6e-4
warmup_steps = 100
schedule = { kind = "wsd", decay_steps = 200 }
optimizer = { kind = "adamw", beta2 = 0.95, weight_decay = 0.1 }
max_grad_norm = 1.0

[[train.groups]]
parameters = ["*.embed_tokens.*"]
learning_rate_scale = 0.5
weight_decay = 0.0

[[train.groups]]
parameters = ["model.layers.0.*"]
frozen = true
# ANCHOR_END: optimizer_toml
"#;
    let document = Document::parse(text, Format::Toml)?;
    let config = TrainConfig::from_document(&document.section("train").unwrap_or_default())?;
    let from_file = config.optimizer.build(&config.groups)?;
    let small = r#"
# ANCHOR: state_toml
[train]
optimizer = { kind = "adamw", state = "int8" }
# ANCHOR_END: state_toml
"#;
    let document = Document::parse(small, Format::Toml)?;
    let small = TrainConfig::from_document(&document.section("train").unwrap_or_default())?;
    assert!(matches!(small.optimizer, OptimizerConfig::AdamW { state: StateFormat::Int8, .. }));
    // ANCHOR: optimizer
    let adamw = AdamW::default().betas(0.9, 0.95)?;
    let decaying = adamw.clone().weight_decay(WeightDecay::matrices(0.1)?);
    let optimizer = ParameterGroups::new(decaying)
        .group(
            Group::new(["*.embed_tokens.*"])?
                .learning_rate_scale(0.5)?
                .optimizer(adamw.weight_decay(WeightDecay::NONE)),
        )
        .group(Group::new(["model.layers.0.*"])?.frozen());
    // ANCHOR_END: optimizer
    assert_eq!(format!("{from_file:?}"), format!("{optimizer:?}"));

    // ANCHOR: schedule
    let two_waves = Schedule::Cosine { from: 1e-3, to: 1e-4, steps: 400 }
        .until(400, Schedule::Cosine { from: 5e-4, to: 1e-5, steps: 600 })
        .after_warmup(100);
    assert_eq!([two_waves.at(100), two_waves.at(500)], [1e-3, 5e-4]);
    // ANCHOR_END: schedule

    let model = small_transformer()?;
    // ANCHOR: frozen
    let mut model = Frozen::new(model);
    model.freeze(["*"])?;
    model.unfreeze(["model.layers.0.*", "*norm.weight"])?;
    // ANCHOR_END: frozen
    assert!(
        model
            .trainable_parameters()
            .flatten()
            .keys()
            .all(|name| { name.starts_with("model.layers.0.") || name.ends_with("norm.weight") })
    );
    Ok(())
}

// ANCHOR: own_optimizer
/// Steps of one size: `w - a sign(g)`.
#[derive(Debug)]
struct SignDescent;

impl Optimizer for SignDescent {
    fn state_names(&self, _parameter: Parameter<'_>) -> &'static [&'static str] {
        &[]
    }

    fn init(&self, _parameter: Parameter<'_>) -> Result<Vec<Array>> {
        Ok(vec![])
    }

    fn coefficients(&self, learning_rate: &Array, _step: &Array) -> Result<Coefficients> {
        // At a learning rate of 0 nothing changes: what a step takes whose gradient is not finite.
        Ok(Coefficients::new(vec![learning_rate.clone()]).resting(&[0.0]))
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        _state: &[Array],
        coefficients: &Coefficients,
    ) -> Result<(Array, Vec<Array>)> {
        let step = ops::sign(gradient)?.multiply(&coefficients.own()[0])?;
        let dtype = parameter.value.dtype();
        Ok((parameter.value.subtract(step)?.as_dtype(dtype)?, vec![]))
    }
}
// ANCHOR_END: own_optimizer

#[test]
fn an_optimizer_of_ones_own_trains() -> Result<()> {
    let mut model = ModelRegistry::get_model("mlp")?.build([
        "input_size=2",
        "output_size=2",
        "hidden_sizes=[]",
    ])?;
    let config = TrainConfig { steps: 50, learning_rate: 0.02, ..TrainConfig::default() };
    let trained = Trainer::new(&mut model, config)?.optimizer(SignDescent).run(HalfPlanes)?;
    let losses: Vec<f64> = trained.history.training.iter().map(|point| point.loss).collect();
    assert!(losses.last() < losses.first(), "{losses:?}");
    Ok(())
}

#[test]
fn loading() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("position.json");
    // ANCHOR: loader
    let options = LoaderOptions { batch_size: 32, seed: 7, num_workers: 2, ..Default::default() };
    let mut loader = DataLoader::new(HalfPlanes, options.clone())?;
    for batch in loader.by_ref().take(100) {
        let Batch { x, y, .. } = batch?;
        assert_eq!((x.shape(), y.shape()), (&[32, 2][..], &[32][..]));
    }
    std::fs::write(&path, serde_json::to_string(&loader.position())?)?;

    // In another process, on another day:
    let mut resumed = DataLoader::new(HalfPlanes, options)?;
    let position: Position = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    resumed.resume_at(&position)?;
    // ANCHOR_END: loader
    assert_eq!(resumed.position(), loader.position());
    let batches = [resumed.next_batch()?, loader.next_batch()?];
    let values = batches.each_ref().map(|batch| batch.x.try_as_slice::<f32>());
    let [resumed, uninterrupted] = values;
    assert_eq!(resumed?, uninterrupted?);
    Ok(())
}

#[test]
fn documents_of_unequal_length() -> Result<()> {
    // ANCHOR: sequences
    let documents = [vec![5, 6, 7, 8], vec![9, 10], vec![11, 12, 13]];
    let learned = vec![false, false, true, true, true, true, true, true, true];
    let sequences =
        Sequences::from_vecs(&documents, 32, "three documents")?.with_loss_mask(learned)?;

    let padded = sequences.padded(Padding::Buckets(vec![4, 8, 16]))?; // one document a row
    let packed = sequences.packed(4, Packing::BestFit)?; // several documents a row
    // ANCHOR_END: sequences
    assert_eq!(padded.batch(&[0, 1, 2])?.x.shape(), [3, 4]);
    let batch = packed.batch(&[0, 1])?;
    let ints = |array: &Array| Ok::<_, Error>(array.try_as_slice::<i32>()?.to_vec());
    // The book shows these.
    assert_eq!(ints(&batch.x)?, [5, 6, 7, 9, 11, 12, 0, 0]);
    assert_eq!(ints(&batch.y)?, [-100, 7, 8, 10, 12, 13, -100, -100]);
    let segments = batch.segments.ok_or_else(|| Error::message("no segments"))?;
    assert_eq!(ints(&segments)?, [0, 0, 0, 1, 0, 0, -1, -1]);
    Ok(())
}

#[test]
fn token_files() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|error| Error::message(error.to_string()))?;
    let (book, output) = (folder.path().join("book.txt"), folder.path().join("tokens"));
    std::fs::write(&book, "Call me Ishmael. ".repeat(20))
        .map_err(|error| Error::message(error.to_string()))?;
    // ANCHOR: prepare
    let tokenizer = Tokenizer::bytes(); // or Tokenizer::open("tokenizer.json")?
    let files = Prepare::new([book], output, tokenizer).run(|_progress| {})?;

    let (training, held_out) = files.split(0.1)?;
    let (training, held_out) = (training.windows(32)?, held_out.chunks(32)?);
    // ANCHOR_END: prepare
    assert!(training.len() > held_out.len());
    Ok(())
}

#[test]
fn memory() -> Result<()> {
    // ANCHOR: memory_policy
    let config = TrainConfig {
        gradient_checkpointing: "selective=[attention,mlp]".parse()?,
        ..TrainConfig::default()
    };
    // ANCHOR_END: memory_policy
    assert_eq!(config.gradient_checkpointing.to_string(), "selective=[attention,mlp]");

    let (mut norm, mut up, mut down) = (RmsNorm::new(8)?, Linear::new(8, 32)?, Linear::new(32, 8)?);
    let x = ops::ones::<f32>(&[2, 8])?;
    // ANCHOR: memory_part
    let parts = (&mut norm, &mut up, &mut down);
    let mixed: Array = checkpoint::part("mlp", parts, &[x], |(norm, up, down), x| {
        Ok(down.forward(&nn::gelu(&up.forward(&norm.forward(&x[0])?)?)?)?)
    })?;
    // ANCHOR_END: memory_part
    assert_eq!(mixed.shape(), [2, 8]);
    Ok(())
}

/// A block whose layers have no biases.
#[derive(Debug, ModuleParameters)]
struct FastBlock {
    #[param]
    norms: Vec<RmsNorm>,
    #[param]
    attention: Vec<Linear>,
    #[param]
    mlp: Vec<Linear>,
    num_heads: i32,
}

impl FastBlock {
    // ANCHOR: fast_block
    /// `(B, T, C)` in and out; H heads of size D.
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let [q, k, v, o] = &self.attention[..] else { return Err(Error::message("four layers")) };
        let (x, normed) = self.norms[0].branch(x)?;
        let (heads, head_dim) = (self.num_heads, x.dim(-1) / self.num_heads);
        let qkv = Linear::forward_all([q, k, v], &normed)?;
        let [q, k, v] = qkv.rotary_heads([heads, heads], head_dim, 10_000.0, 0)?; // (B, H, T, D)
        let mixed = nn::attention(&q, &k, &v, (head_dim as f32).sqrt().recip(), None)?;
        let mixed = mixed.transpose_axes(&[0, 2, 1, 3])?.flatten(2, 3)?; // (B, T, C)
        let x = o.forward_onto(&mixed, Some(&x))?;

        let [gate, up, down] = &self.mlp[..] else { return Err(Error::message("three layers")) };
        let (x, normed) = self.norms[1].branch(&x)?;
        let gated = Linear::forward_all([gate, up], &normed)?;
        down.forward_swiglu(&gated, Some(&x))
    }
    // ANCHOR_END: fast_block
}

#[test]
fn a_block_that_a_gpu_runs_fast() -> Result<()> {
    let layer = |inputs, outputs| nn::LinearBuilder::new(inputs, outputs).bias(false).build();
    let mut block = FastBlock {
        norms: vec![RmsNorm::new(8)?, RmsNorm::new(8)?],
        attention: (0..4).map(|_| layer(8, 8)).collect::<Result<_, _>>()?,
        mlp: vec![layer(8, 16)?, layer(8, 16)?, layer(16, 8)?],
        num_heads: 2,
    };
    let x = ops::ones::<f32>(&[2, 3, 8])?;
    assert_eq!(block.forward(&x)?.shape(), [2, 3, 8]);
    Ok(())
}

// ANCHOR: shard
#[derive(Debug, ModuleParameters, Shard)]
struct FeedForward {
    #[param]
    #[shard(columns)]
    up_proj: Linear,
    #[param]
    #[shard(rows)]
    down_proj: Linear,
    // The same on all ranks.
    #[param]
    norm: LayerNorm,
}

impl BaseModel for FeedForward {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let hidden =
            ops::maximum(self.up_proj.forward(&self.norm.forward(x)?)?, Array::from_f32(0.0))?;
        Ok(self.down_proj.forward(&hidden)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(&self.forward(x)?, y)
    }

    fn as_shard(&mut self) -> Option<&mut dyn Shard> {
        Some(self)
    }
}
// ANCHOR_END: shard

#[test]
fn a_model_says_which_of_its_parameters_are_split() -> Result<()> {
    let mut model = FeedForward {
        up_proj: Linear::new(8, 32)?,
        down_proj: Linear::new(32, 8)?,
        norm: LayerNorm::new(8)?,
    };
    assert_eq!(model.forward(&Array::zeros::<f32>(&[2, 8])?)?.shape(), [2, 8]);
    // ANCHOR: splits
    let splits = mlx_train::model::splits(&mut model, 2)?;
    assert_eq!(splits.axis("up_proj.weight"), Some(0));
    assert_eq!(splits.axis("down_proj.weight"), Some(1));
    assert_eq!(splits.axis("norm.weight"), None);
    let refused = mlx_train::model::splits(&mut model, 3).map(drop);
    // ANCHOR_END: splits
    let expected = "the model cannot be split over 3 ranks: axis 0 of `up_proj.weight` is 32, axis 0 of \
                    `up_proj.bias` is 32, axis 1 of `down_proj.weight` is 32; take multiples of 3, or split it over 2";
    assert_eq!(refused.expect_err("32 is no multiple of 3").to_string(), expected);
    Ok(())
}

#[test]
fn commands_are_launched_from_a_program() -> Result<()> {
    // ANCHOR: launch
    use mlx_train::launch::{Launch, Stop};

    let command = ["sh", "-c", "echo $MLX_RANK"].map(Into::into).to_vec();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = Launch::new(command, 2)?.run(&Stop::default(), &mut out, &mut err)?;
    assert_eq!((ended.exit_code, ended.failure), (0, None));
    // ANCHOR_END: launch
    assert_eq!(out.len(), "[0] 0\n[1] 1\n".len());
    Ok(())
}
