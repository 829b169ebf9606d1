//! Files: what is read, what is refused, and how they are written.

use crate::kitchen_sink::*;
use mlx_train_core::{
    config::{ConfigError, Format, ModelConfig},
    file::FileError,
};
use std::{error::Error, fs, path::Path};
use tempfile::{TempDir, tempdir};

fn write(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

/// The error of loading `path`, with its cause, and without the folder of the test.
fn refusal(folder: &TempDir, path: impl AsRef<Path>) -> String {
    let error = SinkConfig::load(path).unwrap_err();
    let cause = error.source().map(|cause| format!(" (cause: {cause})")).unwrap_or_default();
    format!("{error}{cause}").replace(&folder.path().display().to_string(), "FOLDER")
}

#[test]
fn the_extension_gives_the_format() {
    let folder = tempdir().unwrap();
    for (name, text) in [
        ("a.toml", "workers = 3"),
        ("b.json", "{\"workers\": 3}"),
        ("c.yaml", "workers: 3"),
        ("d.YML", "workers: 3"),
    ] {
        assert_eq!(SinkConfig::load(write(&folder, name, text)).unwrap().workers, 3, "{name}");
    }
}

#[test]
fn a_file_that_is_no_config_is_refused_with_its_path_and_what_to_do() {
    let folder = tempdir().unwrap();
    let refusals = [
        refusal(&folder, folder.path().join("missing.toml")),
        refusal(&folder, folder.path().join("run.ini")),
        refusal(&folder, folder.path().join("run")),
        refusal(&folder, write(&folder, "latin.toml", b"# ok\nname = \"\xe9\"")),
        refusal(&folder, write(&folder, "zeros.json", vec![b' '; (16 << 20) + 1])),
        refusal(&folder, write(&folder, "typo.toml", "# sizes\n\nhiden_size = 3\n")),
        refusal(&folder, write(&folder, "check.yaml", "# sizes\nhidden_size: 100\n")),
    ];
    insta::assert_snapshot!(refusals.join("\n"), @r#"
cannot read `FOLDER/missing.toml`: it does not exist; check the path (cause: No such file or directory (os error 2))
`FOLDER/run.ini` has no extension of a config; name it .toml, .json, .yaml or .yml
`FOLDER/run` has no extension of a config; name it .toml, .json, .yaml or .yml
FOLDER/latin.toml:2:9: this is not UTF-8 text; save the config as UTF-8
FOLDER/zeros.json holds more than 16 MiB, too much for a config; is it another file?
FOLDER/typo.toml:3:1: unknown key `hiden_size`; did you mean `hidden_size`?
FOLDER/check.yaml: num_heads (12) must divide hidden_size (100)
"#);
    fs::create_dir(folder.path().join("folder.toml")).unwrap();
    assert!(matches!(
        SinkConfig::load(folder.path().join("folder.toml")),
        Err(ConfigError::File(FileError::Read { .. }))
    ));
}

#[test]
fn saving_replaces_a_file_whole_and_leaves_nothing_beside_it() {
    let folder = tempdir().unwrap();
    let path = write(&folder, "run.toml", "old");
    SinkConfig::default().save(&path).unwrap();
    assert_eq!(SinkConfig::load(&path).unwrap(), SinkConfig::default());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_config_that_would_not_load_is_not_saved() {
    let folder = tempdir().unwrap();
    let path = write(&folder, "run.toml", "old");
    let wrong = SinkConfig { hidden_size: 0, ..SinkConfig::default() };
    assert!(matches!(wrong.save(&path), Err(ConfigError::Invalid { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
}

#[test]
fn saving_into_no_folder_names_the_path() {
    let folder = tempdir().unwrap();
    let error = SinkConfig::default().save(folder.path().join("none/run.toml")).unwrap_err();
    let text = error.to_string().replace(&folder.path().display().to_string(), "FOLDER");
    insta::assert_snapshot!(text, @r#"
cannot write `FOLDER/none/run.toml`: its folder does not exist; create it first
"#);
}

#[cfg(unix)]
#[test]
fn saving_goes_through_links_and_keeps_permissions() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempdir().unwrap();
    let target = write(&folder, "target.toml", "");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    let link = folder.path().join("link.toml");
    symlink(&target, &link).unwrap();
    Stage::default().save(&link).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(Stage::load(&target).unwrap(), Stage::default());
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn toml_carries_docs_types_ranges_and_defaults() {
    insta::assert_snapshot!(SinkConfig::default().to_text(Format::Toml).unwrap());
    let optimizer = OptimizerConfig { learning_rate: 0.5, ..OptimizerConfig::default() };
    insta::assert_snapshot!(optimizer.to_toml_section("optimizer").unwrap(), @r#"
# How weights move.
[optimizer]
# The step, per unit of gradient.
# (f64, 0.0.., default 0.001)
learning_rate = 0.5
# (list of f64, default [0.9, 0.999])
betas = [0.9, 0.999]
# (constant | cosine | step, default "constant")
schedule = "constant"
"#);
}

#[test]
fn json_and_yaml_are_as_people_write_them() {
    let config =
        SinkConfig { window: Some(5), stages: vec![Stage::default(); 2], ..SinkConfig::default() };
    insta::assert_snapshot!(config.to_text(Format::Json).unwrap());
    insta::assert_snapshot!(config.to_text(Format::Yaml).unwrap());
}

#[test]
fn toml_refuses_a_null_that_it_cannot_say() {
    #[derive(Debug, Clone, ModelConfig)]
    struct Named {
        #[config(default = "x")]
        name: Option<String>,
    }
    let config = Named { name: None };
    insta::assert_snapshot!(config.to_text(Format::Toml).unwrap_err(), @r#"
TOML cannot say that `name` is null, as its default is not; save it as .json or .yaml
"#);
    let json = config.to_text(Format::Json).unwrap();
    assert_eq!(Named::parse(&json, Format::Json).unwrap().name, None);
}
