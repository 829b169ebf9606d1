//! Fine-tuning with adapters, as a person does it: from plain weights, and back to plain weights.

use super::{TINY, folder_with_text, refusal, run, stdout, train};
use mlx_train::store::ArraySet;

#[test]
fn adapters_start_from_a_run_are_resumed_and_exported_as_plain_weights() {
    let folder = folder_with_text();
    let path = folder.path();
    let held_out = |summary: &str| {
        let line = summary.lines().find(|line| line.contains("held-out loss"));
        line.unwrap_or_else(|| panic!("{summary}")).to_owned()
    };
    let base = held_out(&stdout(&train(path, "base", &["--set=train.learning_rate=0.1"])));

    // Where nothing moves, the loss is that of the weights that it started from.
    let adapted = ["--weights=base", "--set=model.lora.rank=2"];
    let still = [&adapted[..], &["--set=train.learning_rate=0"]].concat();
    assert_eq!(held_out(&stdout(&train(path, "still", &still))), base);
    let fast = [&adapted[..], &["--set=train.learning_rate=0.1"]].concat();
    assert_ne!(held_out(&stdout(&train(path, "tuned", &fast))), base);
    let names = ArraySet::open(path.join("tuned/weights.safetensors")).unwrap().names();
    let adapters: Vec<_> = names.iter().filter(|name| name.contains("lora_")).collect();
    assert_eq!((adapters.len(), names.len()), (4, 12 + 4), "{names:?}");

    stdout(&run(
        path,
        &["train", "--resume", "tuned", "--set=train.steps=6", "--allow=train.steps"],
    ));
    stdout(&run(path, &["generate", "tuned", "--prompt=the ", "--max-tokens=4"]));

    stdout(&run(path, &["checkpoint", "export", "tuned", "--output", "plain"]));
    let plain = ArraySet::open(path.join("plain")).unwrap().names();
    assert!(plain.len() == 12 && !plain.iter().any(|name| name.contains("lora_")), "{plain:?}");
    // A plain model takes them as they are.
    stdout(&train(path, "again", &["--weights=plain"]));

    let missing = run(path, &[TINY, &["--weights=base", "--set=model.num_layers=2"]].concat());
    assert!(refusal(&missing, 2).contains("model.layers.1.self_attn.q_proj.weight"));
}
