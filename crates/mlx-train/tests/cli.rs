//! The command line, as a person uses it: the binary, its output and its exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "cli/checkpoint.rs"]
mod checkpoint;
#[path = "cli/estimate.rs"]
mod estimate;
#[path = "cli/lora.rs"]
mod lora;
#[path = "cli/memory.rs"]
mod memory;
#[path = "cli/plan.rs"]
mod plan;
#[path = "cli/profile.rs"]
mod profile;
#[path = "cli/resume.rs"]
mod resume;

use mlx_train::{
    prelude::*,
    run::{RunFolder, config_text},
    store::save_weights,
};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// Runs `mlx-train` in a folder of its own.
fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mlx-train"))
        .args(args)
        .current_dir(folder)
        // Two processes that both use all cores slow each other down by far more than two.
        .env("OPENBLAS_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that a command was refused in words, and returns them.
fn refusal(output: &Output, code: i32) -> String {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.lines().any(|line| line.starts_with("error: ")), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

const TINY: &[&str] = &[
    "train",
    "--model=transformer",
    "--set=model.vocab_size=256",
    "--set=model.hidden_size=16",
    "--set=model.num_layers=1",
    "--set=model.num_heads=2",
    "--set=data.path=text.txt",
    "--set=data.seq_len=16",
    "--set=train.steps=4",
    "--set=train.batch_size=2",
    "--set=train.log_every=1",
];

/// Trains the tiny transformer into a run folder.
fn train(folder: &Path, output: &str, further: &[&str]) -> Output {
    run(folder, &[TINY, &["--output", output], further].concat())
}

fn folder_with_text() -> TempDir {
    let folder = folder();
    let text = "the quick brown fox jumps over the lazy dog; ".repeat(20);
    fs::write(folder.path().join("text.txt"), text).unwrap();
    folder
}

#[test]
fn help_is_as_it_was() {
    let folder = folder();
    for (name, args) in [
        ("help", &["--help"][..]),
        ("help_models", &["models", "--help"]),
        ("help_config_init", &["config", "init", "--help"]),
        ("help_data", &["data", "--help"]),
        ("help_data_prepare", &["data", "prepare", "--help"]),
        ("help_train", &["train", "--help"]),
        ("help_profile", &["profile", "--help"]),
        ("help_estimate", &["estimate", "--help"]),
        ("help_plan", &["plan", "--help"]),
        ("help_generate", &["generate", "--help"]),
        ("help_schedule", &["schedule", "--help"]),
        ("help_plot", &["plot", "--help"]),
        ("help_report", &["report", "--help"]),
    ] {
        insta::assert_snapshot!(name, stdout(&run(folder.path(), args)));
    }
}

#[test]
fn models_are_listed_by_pattern_and_described() {
    let folder = folder();
    let list = stdout(&run(folder.path(), &["models", "list"]));
    assert!(list.contains("mlp") && list.contains("transformer"), "{list}");
    let list = stdout(&run(folder.path(), &["models", "list", "trans*"]));
    assert!(!list.contains("mlp") && list.contains("transformer"), "{list}");
    let text = stdout(&run(folder.path(), &["models", "describe", "transformer"]));
    assert!(text.contains("hidden_size") && text.contains("768"), "{text}");
    let schema = stdout(&run(folder.path(), &["models", "schema", "mlp"]));
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn an_unknown_model_is_refused_with_the_close_name() {
    let message = refusal(&run(folder().path(), &["models", "describe", "transformr"]), 2);
    assert!(message.contains("transformr") && message.contains("`transformer`"), "{message}");
}

#[test]
fn config_init_writes_a_file_that_checks_and_shows_every_default() {
    let folder = folder();
    stdout(&run(folder.path(), &["config", "init", "transformer", "--preset", "tiny"]));
    let text = fs::read_to_string(folder.path().join("train.toml")).unwrap();
    assert!(text.contains("name = \"transformer\"") && text.contains("[train]"), "{text}");
    stdout(&run(folder.path(), &["config", "check", "--config", "train.toml"]));
    let shown = stdout(&run(folder.path(), &["config", "show", "--config", "train.toml"]));
    assert_eq!(shown, text, "what is shown is what was written");
    let again = run(folder.path(), &["config", "init", "mlp"]);
    assert!(refusal(&again, 2).contains("--force"));
}

#[test]
fn a_bad_config_is_refused_with_file_line_and_fix() {
    let folder = folder();
    for (text, expected) in [
        ("[model\n", &["train.toml:1"][..]),
        ("[modle]\nname = 'mlp'\n", &["train.toml:1:2", "`model`"]),
        ("[model]\nname = 'mlp'\nhiden_sizes = [1]\n", &["train.toml:3:1", "`hidden_sizes`"]),
        ("[model]\nname = 'mlp'\ndropout = 'much'\n", &["train.toml:3", "model.dropout", "number"]),
        ("[model]\nname = 'mlp'\ndropout = 1.5\n", &["train.toml:3", "1.5", "less than 1.0"]),
        ("[model]\nname = 7\n", &["train.toml:2", "string"]),
        ("[train]\nsteps = 1\n", &["--model"]),
        ("[model]\nname = 'mlp'\n[train]\nbatch_size = 0\n", &["train.toml:4", "batch_size"]),
        ("model = 3\n", &["train.toml:1:9", "`model` is the integer 3", "table"]),
        ("[[model]]\nname = 'mlp'\n", &["train.toml:1", "`model` is a list", "table"]),
        ("[model]\nname = 'mlp'\nname = 'mlp'\n", &["train.toml:3:1", "duplicate key"]),
        ("[model]\nname = 'transformer'\npreset = 'tinny'\n", &["train.toml:3:10", "`tiny`"]),
        ("[model]\nname = 'mlp'\ndropout = nan\n", &["train.toml:3:11", "NaN", "finite"]),
        ("[model]\nname = 'mlp'\ninput_size = 1e3\n", &["train.toml:3:14", "integer"]),
    ] {
        fs::write(folder.path().join("train.toml"), text).unwrap();
        let message =
            refusal(&run(folder.path(), &["config", "check", "--config", "train.toml"]), 2);
        for part in expected {
            assert!(message.contains(part), "{text}\n{message}\nlacks {part}");
        }
    }
    let message = refusal(&run(folder.path(), &["config", "check", "--config", "no.toml"]), 2);
    assert!(message.contains("no.toml"), "{message}");
}

#[test]
fn files_that_are_no_config_are_refused_in_every_format() {
    let folder = folder();
    fs::create_dir(folder.path().join("folder.toml")).unwrap();
    for (name, content, expected) in [
        ("a.json", &b"{\"model\": {\"name\": \"mlp\",}}"[..], &["a.json:1:", "JSON"][..]),
        ("b.json", b"[1, 2]", &["b.json:1:1", "table"]),
        ("c.json", b"", &["c.json:1:1", "JSON"]),
        ("d.yaml", b"model:\n\tname: mlp\n", &["d.yaml:2:", "YAML"]),
        ("e.yaml", b"model: &a\n  name: *a\n", &["e.yaml:2:9", "aliases"]),
        ("f.toml", b"\x7fELF\x02\x01\xff\x00", &["f.toml:1:", "UTF-8"]),
        ("g.txt", b"x = 1", &["g.txt", ".toml"]),
        ("folder.toml", b"", &["folder.toml", "it is a folder"]),
    ] {
        if name != "folder.toml" {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let message = refusal(&run(folder.path(), &["config", "check", "--config", name]), 2);
        for part in expected {
            assert!(message.contains(part), "{name}\n{message}\nlacks {part}");
        }
    }
}

#[test]
fn the_problems_of_all_sections_are_told_at_once_in_the_order_of_the_file() {
    let folder = folder();
    let text = "[data]\nkind = 'txt'\n[model]\nname = 'mlp'\nfoo = 1\n[train]\nsteps = 0\n";
    fs::write(folder.path().join("train.toml"), text).unwrap();
    let message = refusal(&run(folder.path(), &["config", "check", "--config", "train.toml"]), 2);
    let places: Vec<_> = ["train.toml:2:8", "train.toml:5:1", "train.toml:7:9"]
        .map(|place| message.find(place).unwrap_or_else(|| panic!("{message}\nlacks {place}")))
        .into();
    assert!(places.is_sorted(), "{message}");
}

#[test]
fn a_bad_override_is_refused_with_its_text() {
    let folder = folder();
    for (set, expected) in [
        ("dropout", "there is no `=`"),
        ("=1", "not a key"),
        ("model..dropout=1", "not a key"),
        ("modle.dropout=1", "did you mean `model`?"),
        ("model=mlp", "must be a table"),
        ("model.dropout=", "must be a number"),
        ("model.hidden_sizes=[1,", "malformed"),
        ("model.hidden_sizes=[1,\"a\"]", "`model.hidden_sizes[1]`"),
        ("train.steps=1e3", "write 1000"),
        ("model.preset=tiny", "unknown key `model.preset`"),
    ] {
        let message =
            refusal(&run(folder.path(), &["config", "check", "--model=mlp", "--set", set]), 2);
        assert!(message.contains(&format!("override `{set}`")), "{message}");
        assert!(message.contains(expected), "{message}\nlacks {expected}");
    }
}

#[test]
fn what_no_override_says_alone_is_blamed_on_none_of_them() {
    let args = ["config", "check", "--model=transformer", "--set=model.num_layers=1"];
    let refused = run(folder().path(), &[&args[..], &["--set=model.hidden_size=100"]].concat());
    let message = refusal(&refused, 2);
    assert!(message.contains("hidden_size = 100") && !message.contains("override"), "{message}");
}

#[test]
fn a_pattern_that_no_model_matches_lists_nothing_and_says_so() {
    let output = run(folder().path(), &["models", "list", "zzz*"]);
    assert!(stderr(&output).contains("zzz*"));
    assert_eq!(stdout(&output), "");
}

#[test]
fn a_run_trains_saves_and_generates_and_is_not_replaced_by_accident() {
    let folder = folder_with_text();
    let summary = stdout(&train(folder.path(), "run", &[]));
    assert!(summary.contains("bigram entropy") && summary.contains("run folder"), "{summary}");
    for file in
        ["config.toml", "weights.safetensors", "metrics.jsonl", "plots/loss.png", "index.html"]
    {
        assert!(folder.path().join("run").join(file).is_file(), "{file}");
    }
    let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    for line in metrics.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }

    let generate = ["generate", "run", "--prompt", "the ", "--max-tokens", "8"];
    let first = run(folder.path(), &generate);
    assert!(first.stdout.starts_with(b"the ") && first.stdout.len() == 4 + 8 + 1);
    assert_eq!(first.stdout, run(folder.path(), &generate).stdout, "one seed, one text");

    assert!(refusal(&train(folder.path(), "run", &[]), 2).contains("--force"));

    let weights = folder.path().join("run/weights.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 10]).unwrap();
    let message = refusal(&run(folder.path(), &generate), 2);
    assert!(message.contains("weights.safetensors"), "{message}");
    // A header length of 2^63.
    fs::write(&weights, [0, 0, 0, 0, 0, 0, 0, 128, b'{', b'}']).unwrap();
    let message = refusal(&run(folder.path(), &generate), 2);
    assert!(message.contains("weights.safetensors"), "{message}");
}

#[test]
fn a_run_folder_that_a_program_wrote_is_used_like_one_of_train() {
    let folder = folder_with_text();
    let path = folder.path().join("run");
    let save = |name: &str, overrides: &[&str]| {
        let config = ModelRegistry::get_model(name).unwrap().resolve_config(overrides).unwrap();
        let model = config.build().unwrap();
        let run = RunFolder::create(&path, true).unwrap();
        let training = TrainConfig { steps: 1, batch_size: 2, ..TrainConfig::default() };
        run.write_config(&config_text(&config, &training).unwrap()).unwrap();
        save_weights(model.as_ref(), run.weights()).unwrap();
    };
    save("transformer", &["vocab_size=256", "hidden_size=16", "num_layers=1", "num_heads=2"]);
    let generate = ["generate", "run", "--prompt", "the ", "--max-tokens", "8"];
    assert!(stdout(&run(folder.path(), &generate)).starts_with("the "));
    let further = ["--set=data.path=text.txt", "--set=data.seq_len=16", "--output=again"];
    let train = [&["train", "--config=run/config.toml"][..], &further].concat();
    assert!(stdout(&run(folder.path(), &train)).contains("Trained transformer"));

    save("mlp", &[]);
    assert!(refusal(&run(folder.path(), &generate), 2).contains("does not generate text"));
}

#[test]
fn one_seed_gives_one_run() {
    let folder = folder_with_text();
    let read = |path: &str| fs::read(folder.path().join(path).join("weights.safetensors")).unwrap();
    stdout(&train(folder.path(), "run", &[]));
    stdout(&train(folder.path(), "again", &[]));
    stdout(&train(folder.path(), "other", &["--set=train.seed=1"]));
    assert_eq!(read("run"), read("again"));
    assert_ne!(read("run"), read("other"));
}

#[test]
fn text_that_cannot_be_learned_is_refused_in_words() {
    let folder = folder();
    let text = folder.path().join("text.txt");
    let message = refusal(&train(folder.path(), "run", &[]), 2);
    assert!(message.contains("text.txt"), "{message}");
    for content in ["", "x", "short"] {
        fs::write(&text, content).unwrap();
        let message = refusal(&train(folder.path(), "run", &[]), 2);
        assert!(message.contains("text.txt"), "{message}");
    }
    assert!(!folder.path().join("run").exists(), "nothing is left behind");
}

#[test]
fn settings_that_cannot_be_trained_are_refused_before_anything_is_written() {
    let folder = folder_with_text();
    for (set, expected) in [
        ("model.vocab_size=100", &["model.vocab_size=256"][..]),
        ("model.max_seq_len=8", &["data.seq_len is 16", "8 tokens"]),
        ("data.seq_len=500", &["the held-out part of text.txt", "500"]),
        ("data.held_out=0", &["fraction of 0 of the 900 bytes of text.txt"]),
        ("train.batch_size=1000000", &["train.batch_size is 1000000", "set train.batch_size="]),
        ("train.batch_size=18446744073709551615", &["train.batch_size", "1048576"]),
        ("model.vocab_size=2000000000", &["vocab_size = 2000000000", "lower"]),
        ("model.num_layers=1000000000", &["model.num_layers", "10000"]),
        ("train.learning_rate=inf", &["train.learning_rate", "finite"]),
        ("data.path=.", &["it is a folder"]),
        ("data.kind=idx", &["no file train-images-idx3-ubyte"]),
    ] {
        let message = refusal(&train(folder.path(), "run", &["--set", set]), 2);
        for part in expected {
            assert!(message.contains(part), "{set}\n{message}\nlacks {part}");
        }
        assert!(!folder.path().join("run").exists(), "{set} left a folder behind");
    }
    // Nine terabytes: a model is only described until something is computed.
    let sizes = ["--set=model.hidden_size=16384", "--set=model.num_layers=200"];
    let message = refusal(&train(folder.path(), "run", &sizes), 2);
    assert!(message.contains("TiB") && message.contains("lower the sizes"), "{message}");
    assert!(!folder.path().join("run").exists(), "the sizes left a folder behind");
    for output in ["text.txt", "text.txt/run"] {
        let message = refusal(&train(folder.path(), output, &[]), 2);
        assert!(message.contains(&format!("cannot make the folder `{output}`")), "{message}");
    }
}

#[test]
fn a_run_that_diverges_fails_with_the_step_and_the_learning_rate() {
    let folder = folder_with_text();
    let failed = train(folder.path(), "run", &["--set=train.learning_rate=1e300"]);
    let message = refusal(&failed, 1);
    assert!(message.contains("diverged") && message.contains("lower the learning rate"));
    // What was measured before is there, and the page says how it ended.
    let path = folder.path().join("run");
    assert!(fs::read_to_string(path.join("metrics.jsonl")).unwrap().contains("\"step\":1"));
    assert!(fs::read_to_string(path.join("index.html")).unwrap().contains("training diverged"));
    let message = refusal(&run(folder.path(), &["generate", "run"]), 2);
    assert!(message.contains("not the folder of a finished run"), "{message}");
}

#[test]
fn a_run_that_was_killed_is_plotted_and_reported_from_what_it_left() {
    let folder = folder();
    let killed = folder.path().join("killed");
    fs::create_dir(&killed).unwrap();
    let lines = "{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"loss\":2.5}\n{\"step\":3,\"lo";
    fs::write(killed.join("metrics.jsonl"), lines).unwrap();
    let plots = stdout(&run(folder.path(), &["plot", "killed", "--output", "pictures"]));
    assert_eq!(plots, "pictures/loss.svg\npictures/loss.png\n");
    let report = stdout(&run(folder.path(), &["report", "killed"]));
    assert_eq!(report, "killed/index.html\n");
    let page = fs::read_to_string(killed.join("index.html")).unwrap();
    assert!(page.contains("<h1>killed</h1>") && page.contains("running, or killed"), "{page}");
    assert_eq!(fs::read_to_string(killed.join("metrics.jsonl")).unwrap(), lines, "it only reads");

    for command in ["plot", "report"] {
        let message = refusal(&run(folder.path(), &[command, "nowhere"]), 2);
        assert!(message.contains("`nowhere` is not the folder of a run"), "{message}");
    }
    fs::write(killed.join("metrics.jsonl"), "").unwrap();
    let message = refusal(&run(folder.path(), &["plot", "killed"]), 2);
    assert!(message.contains("no two numbers"), "{message}");
}

#[test]
fn generate_prints_nothing_of_what_it_refuses() {
    let folder = folder_with_text();
    stdout(&train(folder.path(), "run", &["--set=model.max_seq_len=32"]));
    let full = "x".repeat(32);
    for (further, expected) in [
        (&["--temperature=NaN"][..], "temperature is NaN"),
        (&["--temperature", "-1"], "temperature is -1"),
        (&["--top-k=0"], "top_k is 0"),
        (&["--top-p=1.5"], "top_p is 1.5"),
        (&["--prompt="], "prompt is empty"),
        (&["--prompt", &full], "fewer than 32 tokens"),
        (&["--prompt=abc", "--max-tokens=30"], "lower max_tokens to 29"),
    ] {
        let output = run(folder.path(), &[&["generate", "run"], further].concat());
        let message = refusal(&output, 2);
        assert!(message.contains(expected), "{message}\nlacks {expected}");
        assert_eq!(output.stdout, b"", "{further:?}");
    }
    let output = run(folder.path(), &["generate", "run", "--prompt=abc"]);
    assert_eq!(output.stdout.len(), 32 + 1, "the default fills a short context: {output:?}");
    let output = run(folder.path(), &["generate", "run", "--prompt=abc", "--max-tokens=0"]);
    assert_eq!(output.stdout, b"abc\n");
}

#[test]
fn weights_of_another_model_are_refused_with_every_difference() {
    let folder = folder_with_text();
    stdout(&train(folder.path(), "run", &[]));
    stdout(&train(folder.path(), "other", &["--set=model.hidden_size=32"]));
    let weights = |run: &str| folder.path().join(run).join("weights.safetensors");
    fs::copy(weights("other"), weights("run")).unwrap();
    let message = refusal(&run(folder.path(), &["generate", "run"]), 2);
    assert!(
        message.contains("model.norm.weight: [32] in the file, [16] in the model"),
        "{message}"
    );
}

#[test]
fn images_that_do_not_fit_the_model_are_refused_with_both_sizes() {
    let folder = folder();
    for part in ["train", "t10k"] {
        let images = [&[0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 2][..], &[7; 16]].concat();
        fs::write(folder.path().join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        let labels = [0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 2, 3];
        fs::write(folder.path().join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
    let train = |input_size: &str| {
        let args =
            ["train", "--model=mlp", "--set=data.kind=idx", "--set=data.path=.", "--output=run"];
        let sizes = [input_size, "--set=train.steps=3", "--set=train.batch_size=2"];
        run(folder.path(), &[&args[..], &sizes].concat())
    };
    let message = refusal(&train("--set=model.input_size=5"), 2);
    assert!(message.contains('4') && message.contains('5'), "{message}");
    assert!(!folder.path().join("run").exists(), "nothing is left behind");
    let summary = stdout(&train("--set=model.input_size=4"));
    assert!(summary.contains("held-out accuracy"), "{summary}");
    fs::remove_file(folder.path().join("t10k-labels-idx1-ubyte")).unwrap();
    let message = refusal(&train("--set=model.input_size=4"), 2);
    assert!(message.contains("no file t10k-labels-idx1-ubyte"), "{message}");
}

#[test]
fn a_schedule_is_shown_and_drawn_without_a_model_or_data() {
    let folder = folder();
    let config = "[model]\nname = 'unknown here'\n[train]\nsteps = 100\nwarmup_steps = 10\n";
    fs::write(folder.path().join("train.toml"), config).unwrap();
    let wsd = ["schedule", "--config=train.toml", "--set=train.schedule.kind=wsd"];
    let drawn = run(folder.path(), &[&wsd[..], &["--plot=rates.png"]].concat());
    insta::assert_snapshot!("schedule", stdout(&drawn));
    assert!(fs::read(folder.path().join("rates.png")).unwrap().starts_with(b"\x89PNG"));

    let json = run(folder.path(), &[&wsd[..], &["--plot=rates.svg", "--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(json["boundaries"], serde_json::json!([10, 80]));
    assert_eq!(json["points"][0], serde_json::json!({ "step": 0, "learning_rate": 0.0 }));
    let svg = fs::read_to_string(folder.path().join("rates.svg")).unwrap();
    assert!(svg.contains("learning rate") && !svg.contains("last:"), "no legend is needed");
}

#[test]
fn a_schedule_that_cannot_be_is_refused_with_the_fix() {
    let folder = folder();
    for (set, expected) in [
        ("train.schedule.kind=exponential", "set final_learning_rate above 0"),
        ("train.epochs=3", "say --rows NUMBER"),
        ("train.schedule=cosin", "did you mean `cosine`?"),
    ] {
        let refused = run(folder.path(), &["schedule", "--plot=rates.png", "--set", set]);
        let message = refusal(&refused, 2);
        assert!(message.contains(expected), "{message}");
    }
    let by_rows = ["schedule", "--set=train.epochs=2", "--set=train.batch_size=10", "--rows=95"];
    let table = stdout(&run(folder.path(), &by_rows));
    assert!(table.lines().last().unwrap().trim().starts_with("18 "), "19 steps: {table}");
    let message = refusal(&run(folder.path(), &["schedule", "--plot=rates.jpg"]), 2);
    assert!(message.contains("rates.jpg") && message.contains(".png"), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn completions_name_the_commands() {
    let script = stdout(&run(folder().path(), &["completions", "bash"]));
    assert!(script.contains("generate") && script.contains("mlx-train"), "{script}");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mlx-train"))
        .args(["models", "describe", "transformer"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(stderr(&output), "");
}
