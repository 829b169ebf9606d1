//! Which way to split a step is planned, on the command line.

use super::{folder, refusal, run, stderr, stdout};
use mlx_train::ffi::device_info;
use serde_json::Value;
use std::{fs, path::Path};

const MODEL: [&str; 9] = [
    "plan",
    "--model=transformer",
    "--set=model.vocab_size=512",
    "--set=model.hidden_size=64",
    "--set=model.num_layers=6",
    "--set=model.num_heads=4",
    "--set=model.dropout=0.0",
    "--seq=32",
    "--batch=8",
];

/// Two hosts with two devices each, of which those of the second are slower.
const CLUSTER: &str = r#"
backend = "mpi"
[link]
bytes_per_second = 1e9
latency_seconds = 1e-4
[[hosts]]
devices = 2
[hosts.device]
memory = "8 MiB"
f32_flops = 1e11
bytes_per_second = 1e10
[hosts.link]
bytes_per_second = 1e10
latency_seconds = 1e-5
[[hosts]]
devices = 2
[hosts.device]
memory = "16 MiB"
f32_flops = 5e10
bytes_per_second = 1e10
[hosts.link]
bytes_per_second = 1e10
latency_seconds = 1e-5
"#;

fn plan(folder: &Path, further: &[&str]) -> std::process::Output {
    run(folder, &[&MODEL[..], further].concat())
}

fn folder_with_cluster() -> tempfile::TempDir {
    let folder = folder();
    fs::write(folder.path().join("cluster.toml"), CLUSTER).unwrap();
    folder
}

#[test]
fn the_table_tells_what_each_layout_needs_and_why_it_is_not_chosen() {
    let folder = folder_with_cluster();
    let output =
        plan(folder.path(), &["--cluster=cluster.toml", "--dry-run", "--output=plan.json"]);
    let table = stdout(&output);
    assert!(stderr(&output).contains("for 4 device(s) in "), "{}", stderr(&output));
    assert!(table.contains("fsdp=4") && table.contains("chosen"), "{table}");
    // A GPU records other operations.
    if !device_info().unwrap().is_gpu {
        insta::assert_snapshot!("plan_table", table);
    }
    let json: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("plan.json")).unwrap())
            .unwrap();
    let choice = &json["choice"];
    let chosen = &json["candidates"][0];
    assert_eq!(chosen["verdict"]["is"], "chosen");
    assert_eq!(choice["parallel"], chosen["layout"]);
    assert_eq!(
        choice["batch_size"].as_u64().unwrap() * choice["accumulation"].as_u64().unwrap(),
        8
    );
    assert!(chosen["memory"]["total_bytes"].as_u64() <= chosen["available_bytes"].as_u64());
    mlx_train::plan::Choice::load(folder.path().join("plan.json")).unwrap();
}

#[test]
fn a_budget_that_nothing_fits_is_refused_with_what_would_fit() {
    let folder = folder_with_cluster();
    let message = refusal(&plan(folder.path(), &["--cluster=cluster.toml", "--budget=64KiB"]), 2);
    assert!(message.contains("no layout of 4 devices fits"), "{message}");
    assert!(message.contains("it fits in"), "{message}");
}

#[test]
fn what_cannot_be_planned_is_refused_in_words() {
    let folder = folder_with_cluster();
    let path = folder.path();
    let write = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
    write("empty.toml", "backend = 'ring'");
    write("slow.toml", &CLUSTER.replace("f32_flops = 5e10", "f32_flops = 0"));
    write("wrong.toml", &CLUSTER.replace("devices = 2", "device_number = 2"));
    write("many.toml", &CLUSTER.replace("devices = 2", "devices = 1000"));
    write("no-memory.toml", &CLUSTER.replace("memory = \"8 MiB\"", ""));
    let refused = |further: &[&str]| refusal(&plan(path, further), 2);
    for (file, reason) in [
        ("empty.toml", "there are no [[hosts]]"),
        ("slow.toml", "`hosts[1].device.f32_flops`"),
        ("wrong.toml", "device_number"),
        ("many.toml", "at most 1024"),
        ("no-memory.toml", "a device needs `memory`"),
        ("missing.toml", "missing.toml"),
    ] {
        let message = refused(&[&format!("--cluster={file}")]);
        assert!(message.contains(reason), "{file}: {message}");
    }
    assert!(refused(&["--devices=2000"]).contains("at most 1024"));
    assert!(refused(&["--devices=7", "--backend=ring"]).contains("no layout takes 7 devices"));
    let both = stderr(&plan(path, &["--devices=2", "--cluster=cluster.toml"]));
    assert!(both.contains("cannot be used with"), "{both}");
    let unknown = refusal(&run(path, &["plan", "--model=transfomer", "--devices=2"]), 2);
    assert!(unknown.contains("transformer"), "{unknown}");
}

#[test]
fn four_hundred_billion_parameters_on_a_thousand_devices_are_planned() {
    let large = [
        "plan",
        "--model=transformer",
        "--set=model.vocab_size=128256",
        "--set=model.hidden_size=16384",
        "--set=model.num_layers=126",
        "--set=model.num_heads=128",
        "--set=model.num_kv_heads=8",
        "--set=model.intermediate_size=53248",
        "--set=model.max_seq_len=8192",
        "--set=model.dropout=0.0",
        "--set=train.precision=mixed",
        "--batch=1024",
        "--seq=4096",
        "--devices=1024",
        "--backend=mpi",
        "--budget=128GiB",
        "--dry-run",
        "--json",
    ];
    let output = run(folder().path(), &large);
    // A device of this machine may have less than is needed, and that is what is told then.
    let told = [stdout_or_nothing(&output), stderr(&output)].concat();
    assert!(
        told.contains("\"num_parameters\": 405853388800") || told.contains("no layout of 1024"),
        "{told}"
    );
}

fn stdout_or_nothing(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn ranks_measure_what_they_are_and_the_first_writes_it_down() {
    let folder = folder();
    let binary = env!("CARGO_BIN_EXE_mlx-train");
    let launch = [
        "launch",
        "-n",
        "2",
        "--limit",
        "60",
        "--",
        binary,
        "plan",
        "--measure",
        "--cluster=here.toml",
    ];
    let output = run(folder.path(), &launch);
    let told = stdout(&output);
    assert_eq!(told.matches("f32_flops").count(), 1, "{told}");
    let planned = plan(folder.path(), &["--cluster=here.toml", "--json"]);
    let json: Value = serde_json::from_str(&stdout(&planned)).unwrap();
    assert_eq!(json["cluster"]["hosts"][0]["devices"], 2);
    assert!(json["cluster"]["link"]["bytes_per_second"].as_f64().unwrap() > 1e5);
}

#[test]
fn a_run_takes_its_layout_from_a_plan_or_plans_for_the_ranks_that_there_are() {
    let folder = super::folder_with_text();
    let binary = env!("CARGO_BIN_EXE_mlx-train");
    let settings = [&super::TINY[1..], &["--set=model.num_layers=2"]].concat();
    let make = ["plan", "--devices=2", "--backend=ring", "--output=plan.json"];
    // A setting of another command is none of this one's.
    stdout(&run(folder.path(), &[&make[..], &settings].concat()));
    for (output, how) in [("planned", "--plan=plan.json"), ("auto", "--parallel=auto")] {
        let launch =
            ["launch", "-n", "2", "--limit", "60", "--", binary, "train", "--output", output, how];
        let trained = run(folder.path(), &[&launch[..], &settings].concat());
        assert!(trained.status.success(), "{}", stderr(&trained));
        assert!(stderr(&trained).contains("trains with train.parallel='"), "{}", stderr(&trained));
        let config = fs::read_to_string(folder.path().join(output).join("config.toml")).unwrap();
        let rows = |key: &str| -> u64 {
            let line = config.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
            line.unwrap().parse().unwrap()
        };
        // A step has as many rows as before, however they are divided.
        assert_eq!(rows("batch_size") * rows("accumulation"), 2, "{config}");
        assert!(!config.contains("parallel = \"none\""), "{config}");
    }
    let other = ["train", "--model=mlp", "--plan=plan.json"];
    let message = refusal(&run(folder.path(), &other), 2);
    assert!(message.contains("plan for the model transformer"), "{message}");
}
