//! Claims about the registry. Those about clashes use indexes of their own, as a clash in the
//! program's slice would break every other test.

// linkme marks a linker section; rustc lets it pass in every crate but the one that declares the slice.
#![allow(unsafe_code)]

use super::{
    entry::{RegisteredBuild, Registration},
    *,
};
use crate::{
    Array, Error, ModuleParameters,
    config::ModelConfig,
    model::{BaseModel, FromConfig, Loss},
    register_model,
};
use insta::assert_snapshot;

/// How much to add.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
struct ShiftConfig {
    /// What is added.
    ///
    /// Not to the text that lists it.
    #[config(default = 1, range = 0..100)]
    by: i32,
}

/// Adds a number.
///
/// Nothing else.
#[register_model("shift", aliases = ["plus"], tags = ["toy", "arithmetic"])]
#[derive(Debug, ModuleParameters)]
struct Shift(i32);

impl FromConfig for Shift {
    type Config = ShiftConfig;
    fn from_config(config: &ShiftConfig) -> Result<Self> {
        Ok(Self(config.by))
    }
}

impl BaseModel for Shift {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(x.add(Array::from_int(self.0))?)
    }
    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        Ok(Loss::mean_over(self.forward(x)?.subtract(y)?, 1))
    }
}

/// What to multiply by.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
struct ScaleConfig {
    /// The factor.
    #[config(default = 2)]
    by: i32,
    /// Results stay between these.
    limits: Limits,
    /// How results are rounded.
    rounding: Rounding,
    /// Limits of the gradient.
    clip: Option<Limits>,
}

#[derive(Debug, Clone, PartialEq, ModelConfig)]
struct Limits {
    /// The smallest result.
    #[config(default = -1.5, range = -10.0..=0.0)]
    low: f32,
    #[config(default = 1.0)]
    high: f32,
}

#[derive(Debug, Clone, PartialEq, ModelConfig)]
enum Rounding {
    #[config(default)]
    None,
    Steps {
        /// The distance of two results.
        #[config(default = 8, range = 1..)]
        size: i32,
    },
}

/// This comment is not the description.
#[register_model("scale", description = "Multiplies.", tags = ["toy"])]
#[derive(Debug, ModuleParameters)]
struct Scale(i32);

impl FromConfig for Scale {
    type Config = ScaleConfig;
    fn from_config(config: &ScaleConfig) -> Result<Self> {
        Ok(Self(config.by))
    }
}

impl BaseModel for Scale {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(x.multiply(Array::from_int(self.0))?)
    }
    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        Ok(Loss::mean_over(self.forward(x)?.subtract(y)?, 1))
    }
}

/// What a model makes of three.
fn of_three(mut model: impl BaseModel) -> Result<i32> {
    let y = model.forward(&Array::from_int(3))?;
    Ok(y.try_item_exact().unwrap())
}

const fn entry(registration: Registration) -> ModelEntry {
    ModelEntry::new(registration, <Shift as RegisteredBuild>::METHODS)
}

const fn named(name: &'static str) -> Registration {
    Registration {
        name,
        aliases: &[],
        tags: &[],
        description: "",
        type_path: "tests::Model",
        file: "tests.rs",
        line: 1,
    }
}

fn index_of(registrations: impl IntoIterator<Item = Registration>) -> Index {
    Index::new(
        registrations.into_iter().map(|registration| &*Box::leak(Box::new(entry(registration)))),
    )
}

fn names(entries: &[&ModelEntry]) -> Vec<&'static str> {
    entries.iter().map(|entry| entry.name()).collect()
}

mod look_up {
    use super::*;

    #[test]
    fn a_name_or_an_alias_finds_its_model_and_nothing_else_does() -> Result<()> {
        let shift = ModelRegistry::get_model("shift")?;
        assert_eq!(shift.name(), "shift");
        assert!(std::ptr::eq(shift, ModelRegistry::get_model("plus")?));
        for near in ["Shift", "shift ", "shif", "shift*", "toy", ""] {
            let refused = ModelRegistry::get_model(near);
            let refused = refused.map(ModelEntry::name);
            assert!(
                matches!(refused, Err(Error::Registry(RegistryError::UnknownModel { .. }))),
                "{near}"
            );
        }
        Ok(())
    }

    #[test]
    fn an_entry_says_what_its_attribute_and_its_source_say() -> Result<()> {
        let shift = ModelRegistry::get_model("shift")?;
        assert_eq!(shift.aliases(), ["plus"]);
        assert_eq!(shift.tags(), ["toy", "arithmetic"]);
        assert_eq!(shift.description(), "Adds a number.\n\nNothing else.");
        assert_eq!(shift.summary(), "Adds a number.");
        assert_eq!(shift.type_path(), concat!(module_path!(), "::Shift").replace("::look_up", ""));
        assert_eq!(shift.config_type(), std::any::type_name::<ShiftConfig>());
        let (file, line) = shift.location();
        assert!(file.ends_with("registry/tests.rs"), "{file}");
        let attribute = include_str!("tests.rs").lines().nth(line as usize - 1).unwrap();
        assert!(attribute.starts_with("#[register_model(\"shift\""), "{attribute}");
        assert_eq!(ModelRegistry::get_model("scale")?.description(), "Multiplies.");
        Ok(())
    }

    #[test]
    fn ten_thousand_models_are_found_by_name_and_listed_in_natural_order() {
        let count = 10_000;
        let name = |n: usize| -> &'static str { format!("model{n}").leak() };
        let index = index_of((0..count).rev().map(|n| named(name(n))));
        for n in 0..count {
            assert_eq!(index.get(name(n)).unwrap().name(), name(n));
        }
        let listed = names(&index.list("model*").unwrap());
        assert!(listed.iter().copied().eq((0..count).map(name)));
        assert_eq!(names(&index.list("model999?").unwrap()).len(), 10);
    }
}

mod unknown_names {
    use super::*;

    fn refusal(known: &[&'static str], name: &str) -> String {
        index_of(known.iter().map(|name| named(name))).get(name).unwrap_err().to_string()
    }

    #[test]
    fn the_error_lists_close_names_and_known_ones_and_says_how_to_link() {
        assert_snapshot!(refusal(&["transformer", "mlp", "conv_net"], "transfomer"), @r"
        no model is named `transfomer`; did you mean `transformer`?
        registered: `conv_net`, `mlp`, `transformer`
        a model is registered once its crate is linked: if it is in another crate, write `use that_crate as _;` in yours
        ");
    }

    #[test]
    fn what_was_meant_is_suggested() {
        let known = ["transformer", "mlp", "mlp-mixer", "conv_net", "gpt2", "gpt10"];
        let suggested = |name| {
            let refused = index_of(known.map(named)).get(name);
            match refused.map(ModelEntry::name) {
                Err(RegistryError::UnknownModel { close, .. }) => close,
                other => panic!("{name}: {other:?}"),
            }
        };
        assert_eq!(suggested("Transformer"), ["transformer"]);
        assert_eq!(suggested("tranfsormer"), ["transformer"]);
        assert_eq!(suggested("trans"), ["transformer"]);
        assert_eq!(suggested("mpl"), ["mlp"]);
        assert_eq!(suggested("mlp_mixer"), ["mlp-mixer"]);
        assert_eq!(suggested("convnet"), ["conv_net"]);
        assert_eq!(suggested("gpt3"), ["gpt2", "gpt10"]);
        assert_eq!(suggested("resnet50"), [""; 0]);
        assert_eq!(suggested(""), [""; 0]);
    }

    #[test]
    fn an_alias_is_suggested_too() {
        let llama = Registration { aliases: &["llama"], ..named("transformer") };
        let refused = index_of([llama]).get("lama").unwrap_err().to_string();
        assert!(refused.contains("did you mean `llama`?"), "{refused}");
    }

    #[test]
    fn an_empty_registry_says_so() {
        assert_snapshot!(refusal(&[], "mlp"), @r"
        no model is named `mlp`
        no model is registered at all
        a model is registered once its crate is linked: if it is in another crate, write `use that_crate as _;` in yours
        ");
    }

    #[test]
    fn a_long_list_is_cut_and_a_hostile_name_is_escaped() {
        let known: Vec<&'static str> = (0..100).map(|n| &*format!("net{n}").leak()).collect();
        assert_snapshot!(refusal(&known, "a\u{1b}[31m\nb"), @r"
        no model is named `a\u{1b}[31m\nb`
        registered: `net0`, `net1`, `net2`, `net3`, `net4`, `net5`, `net6`, `net7`, `net8`, `net9`, `net10`, `net11`, `net12`, `net13`, `net14`, `net15`, `net16`, `net17`, `net18`, `net19` and 80 more
        a model is registered once its crate is linked: if it is in another crate, write `use that_crate as _;` in yours
        ");
    }
}

mod listing {
    use super::*;

    fn listed(pattern: &str) -> Vec<&'static str> {
        let index = index_of([
            Registration { tags: &["text"], ..named("transformer") },
            Registration { aliases: &["llama.v1", "llama.v2"], tags: &["text"], ..named("llm") },
            Registration { tags: &["vision", "video"], ..named("vit10") },
            Registration { tags: &["vision"], ..named("vit2") },
        ]);
        names(&index.list(pattern).unwrap())
    }

    #[test]
    fn a_glob_matches_names_and_aliases_and_each_model_is_listed_once() {
        assert_eq!(listed("*"), ["llm", "transformer", "vit2", "vit10"]);
        assert_eq!(listed("trans*"), ["transformer"]);
        assert_eq!(listed("llama.*"), ["llm"]);
        assert_eq!(listed("vit?"), ["vit2"]);
        assert_eq!(listed("{vit2,transformer}"), ["transformer", "vit2"]);
        assert_eq!(listed("transformer"), ["transformer"]);
        assert_eq!(listed("Trans*"), [""; 0]);
        assert_eq!(listed("vision"), [""; 0]);
    }

    #[test]
    fn a_tag_pattern_matches_tags_alone() {
        assert_eq!(listed("tag:vision"), ["vit2", "vit10"]);
        assert_eq!(listed("tag:vi*"), ["vit2", "vit10"]);
        assert_eq!(listed("tag:llm"), [""; 0]);
    }

    #[test]
    fn the_program_lists_its_own_models() -> Result<()> {
        assert_eq!(names(&ModelRegistry::list("tag:toy")?), ["scale", "shift"]);
        let all = names(&ModelRegistry::all()?);
        assert!(all.contains(&"scale") && all.contains(&"shift"), "{all:?}");
        Ok(())
    }

    #[test]
    fn a_malformed_pattern_is_an_error() {
        for pattern in ["trans[", "{a", "", "tag:"] {
            let refused = ModelRegistry::list(pattern);
            assert!(
                matches!(&refused, Err(Error::Registry(RegistryError::Pattern { .. }))),
                "{pattern}"
            );
        }
        assert_snapshot!(ModelRegistry::list("trans[").unwrap_err(), @"`trans[` is not a pattern of model names; write `*` for all, or a glob such as `trans*` or `tag:vision`");
    }
}

mod clashes {
    use super::*;

    const FIRST: Registration =
        Registration { type_path: "a::Net", file: "a/src/lib.rs", line: 10, ..named("net") };
    const SECOND: Registration =
        Registration { type_path: "b::deep::Net", file: "b/src/deep.rs", line: 7, ..named("net") };

    #[test]
    fn two_models_of_one_name_are_an_error_that_names_both_places() {
        let index = index_of([SECOND, FIRST, named("other")]);
        assert_snapshot!(index.get("net").unwrap_err(), @r"
        2 models are registered as `net`:
          `a::Net` at a/src/lib.rs:10
          `b::deep::Net` at b/src/deep.rs:7
        rename all but one in `#[register_model(…)]`, or link only one of their crates
        ");
        assert_eq!(
            index.list("n*").unwrap_err().to_string(),
            index.get("net").unwrap_err().to_string()
        );
    }

    #[test]
    fn an_alias_that_is_the_name_of_another_model_is_a_clash() {
        let alias = Registration { aliases: &["net"], ..named("other") };
        assert_snapshot!(index_of([alias, FIRST]).get("net").unwrap_err(), @r"
        2 models are registered as `net`:
          `a::Net` at a/src/lib.rs:10
          `tests::Model` at tests.rs:1, an alias of `other`
        rename all but one in `#[register_model(…)]`, or link only one of their crates
        ");
    }

    #[test]
    fn the_error_does_not_depend_on_the_order_of_the_linker() {
        let one = index_of([FIRST, SECOND]).get("net").unwrap_err().to_string();
        assert_eq!(one, index_of([SECOND, FIRST]).get("net").unwrap_err().to_string());
    }

    #[test]
    fn names_that_do_not_clash_stay_usable() {
        let aliased = Registration { aliases: &["mesh"], ..FIRST };
        let index = index_of([aliased, SECOND, named("other")]);
        assert_eq!(index.get("other").unwrap().name(), "other");
        assert_eq!(names(&index.list("o*").unwrap()), ["other"]);
        // The alias is unique, so there is no doubt which model it means.
        assert_eq!(index.get("mesh").unwrap().type_path(), "a::Net");
    }

    proptest::proptest! {
        #[test]
        fn a_name_is_found_exactly_when_one_model_has_it(
            models in proptest::collection::vec(("[a-c]", proptest::option::of("[d-f]")), 0..6)
        ) {
            let index = index_of(models.iter().map(|(name, alias)| {
                let aliases: Vec<&str> = alias.iter().map(|alias| &*alias.clone().leak()).collect();
                Registration { aliases: aliases.leak(), ..named(name.clone().leak()) }
            }));
            let count_of = |text: &str| {
                let has = |(name, alias): &&(String, Option<String>)| name == text || alias.as_deref() == Some(text);
                models.iter().filter(has).count()
            };
            for text in ["a", "b", "c", "d", "e", "f"] {
                match (index.get(text), count_of(text)) {
                    (Err(RegistryError::UnknownModel { .. }), 0) => {}
                    (Ok(entry), 1) => assert!(entry.names().any(|name| name == text)),
                    (Err(RegistryError::NameClash(clashes)), count @ 2..) => {
                        assert_eq!(clashes[0].entries().len(), count);
                    }
                    (found, count) => panic!("{text}: {found:?} with {count} models"),
                }
            }
            let clashes = ["a", "b", "c", "d", "e", "f"].iter().any(|text| count_of(text) > 1);
            assert_eq!(index.list("*").is_err(), clashes);
        }
    }

    #[test]
    fn a_listing_reports_every_clash_at_once() {
        let index = index_of([FIRST, SECOND, named("a"), named("a"), named("a")]);
        let Err(RegistryError::NameClash(clashes)) = index.list("*") else { panic!("no clash") };
        let found: Vec<_> =
            clashes.iter().map(|clash| (clash.name(), clash.entries().len())).collect();
        assert_eq!(found, [("a", 3), ("net", 2)]);
    }
}

mod building {
    use super::*;

    #[test]
    fn a_model_is_built_from_every_source_of_a_config() -> Result<()> {
        let shift = ModelRegistry::get_model("shift")?;
        assert_eq!(of_three(shift.build(())?)?, 4);
        assert_eq!(of_three(shift.build(ShiftConfig { by: 2 })?)?, 5);
        assert_eq!(of_three(shift.build(&ShiftConfig { by: 3 })?)?, 6);
        assert_eq!(of_three(shift.build(["by=4"])?)?, 7);
        assert_eq!(of_three(shift.build(serde_json::json!({"by": 5}))?)?, 8);
        assert_eq!(of_three(shift.build(toml::Table::from_iter([("by".into(), 6.into())]))?)?, 9);
        assert_eq!(of_three(shift.build_as::<Shift>(["by=7"])?)?, 10);
        Ok(())
    }

    #[test]
    fn a_config_of_another_model_is_refused_with_both_types() -> Result<()> {
        let refused = ModelRegistry::get_model("shift")?.build(ScaleConfig::default());
        assert_snapshot!(
            refused.unwrap_err(),
            @"model `shift` is built from a `mlx_train_core::registry::tests::ShiftConfig`, but was given a `mlx_train_core::registry::tests::ScaleConfig`; pass the former, or get the model of the latter"
        );
        Ok(())
    }

    #[test]
    fn a_model_of_another_type_is_refused_with_both_types() -> Result<()> {
        let refused = ModelRegistry::get_model("shift")?.build_as::<Scale>(());
        assert_snapshot!(
            refused.unwrap_err(),
            @"model `shift` is a `mlx_train_core::registry::tests::Shift`, not a `mlx_train_core::registry::tests::Scale`; ask for that type, or use `build`"
        );
        Ok(())
    }

    #[test]
    fn a_bad_value_is_refused_before_the_model_sees_it() -> Result<()> {
        let shift = ModelRegistry::get_model("shift")?;
        for result in
            [shift.build(["by=100"]), shift.build(ShiftConfig { by: -1 }), shift.build(["bye=1"])]
        {
            assert!(matches!(result, Err(Error::Config(_))), "{result:?}");
        }
        Ok(())
    }

    #[test]
    fn a_resolved_config_is_whole_and_builds_the_same_model() -> Result<()> {
        let shift = ModelRegistry::get_model("shift")?;
        let resolved = shift.resolve_config(["by=9"])?;
        assert_eq!(resolved.model().name(), "shift");
        assert_eq!(resolved.value(), serde_json::json!({"by": 9}));
        assert_eq!(resolved.hash(), ShiftConfig { by: 9 }.stable_hash());
        assert_eq!(of_three(resolved.build()?)?, 12);
        assert_eq!(shift.resolve_config(resolved.value())?.value(), resolved.value());
        let text = resolved.to_text(crate::config::Format::Toml)?;
        assert_eq!(ShiftConfig::parse(&text, crate::config::Format::Toml)?, ShiftConfig { by: 9 });
        Ok(())
    }
}

mod descriptions {
    use super::*;

    /// Without the line, which moves with every edit above it.
    fn shown(name: &str) -> Result<String> {
        let (file, line) = ModelRegistry::get_model(name)?.location();
        let text = ModelRegistry::describe(name)?.to_string();
        Ok(text.replace(&format!("{file}:{line}"), "FILE:LINE"))
    }

    #[test]
    fn the_text_shows_what_the_model_is_and_every_field_of_its_config() -> Result<()> {
        assert_snapshot!(shown("plus")?, @r#"
        shift

        Adds a number.

        Nothing else.

        aliases  plus
        tags     toy, arithmetic
        type     mlx_train_core::registry::tests::Shift
        source   FILE:LINE
        config   mlx_train_core::registry::tests::ShiftConfig

        field  type  default  range   meaning
        by     i32   1        0..100  What is added.
        "#);
        Ok(())
    }

    #[test]
    fn nested_fields_are_shown_by_their_paths() -> Result<()> {
        assert_snapshot!(shown("scale")?, @r#"
        scale

        Multiplies.

        tags    toy
        type    mlx_train_core::registry::tests::Scale
        source  FILE:LINE
        config  mlx_train_core::registry::tests::ScaleConfig

        field          type            default  range        meaning
        by             i32             2                     The factor.
        limits.low     f32             -1.5     -10.0..=0.0  The smallest result.
        limits.high    f32             1.0
        rounding       none | steps    "none"                How results are rounded.
        rounding.size  i32             8        1..          The distance of two results.
        clip           Limits or null  null                  Limits of the gradient.
        clip.low       f32             -1.5     -10.0..=0.0  The smallest result.
        clip.high      f32             1.0
        "#);
        Ok(())
    }

    #[test]
    fn the_json_has_what_the_text_has_and_the_schema() -> Result<()> {
        let description = ModelRegistry::describe("shift")?;
        let json = serde_json::to_value(&description).unwrap();
        assert_eq!(json["name"], "shift");
        assert_eq!(json["aliases"], serde_json::json!(["plus"]));
        assert_eq!(json["fields"][0]["type"], "i32");
        assert_eq!(json["json_schema"], ShiftConfig::json_schema());
        Ok(())
    }
}
