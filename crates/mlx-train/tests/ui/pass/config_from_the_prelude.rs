//! A user needs the prelude alone, whatever else is called by the names of the standard library.
use mlx_train::prelude::*;

/// Shadows what expansions must not rely on.
#[allow(dead_code)]
mod shadowed {
    use mlx_train::prelude::ModelConfig;

    pub struct Result;
    pub struct Some;
    pub struct None;
    pub struct Default;
    pub trait Clone {}
    pub trait Into {}
    pub mod std {}
    pub mod core {}

    #[derive(::std::fmt::Debug, ::std::clone::Clone, ModelConfig)]
    pub struct Inner {
        #[config(default = 1, range = LOWEST..)]
        pub r#type: i32,
        #[config(default = "x")]
        pub reader: ::std::option::Option<::std::string::String>,
        pub nodes: ::std::vec::Vec<i32>,
        pub choice: Choice,
    }

    const LOWEST: i32 = 0;

    #[derive(::std::fmt::Debug, ::std::clone::Clone, ModelConfig)]
    pub enum Choice {
        #[config(default)]
        This { base: bool, node: ::std::option::Option<f32> },
        That,
    }
}

/// Without fields.
#[derive(Debug, Clone, ModelConfig)]
struct Nothing;

#[derive(Debug, Clone, ModelConfig)]
#[config(validate = Outer::check, presets = Outer::list)]
struct Outer {
    #[config(default = shadowed::Inner { r#type: 2, ..Default::default() })]
    inner: shadowed::Inner,
    nothing: Nothing,
    #[config(default = vec![1, 2], range = 1..)]
    widths: Vec<i32>,
    #[config(default = 0.5, range = 0..1)]
    share: f32,
    #[config(default = [[1.0; 2]; 2])]
    matrix: [[f64; 2]; 2],
}

impl Outer {
    fn check(&self) -> std::result::Result<(), String> {
        if self.widths.is_empty() { Err("no widths".to_owned()) } else { Ok(()) }
    }

    fn list() -> [(&'static str, Outer); 1] {
        [("wide", Outer { widths: vec![9], ..Outer::default() })]
    }
}

fn main() -> Result<()> {
    let outer = Outer::default().with_overrides(["preset=wide", "inner.type=3"])?;
    assert_eq!((outer.widths.as_slice(), outer.inner.r#type), (&[9][..], 3));
    assert!(outer.with_overrides(["widths=[]"]).is_err());
    Nothing::default().validate()?;
    Ok(())
}
