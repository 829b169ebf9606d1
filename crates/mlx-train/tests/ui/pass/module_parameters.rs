//! The derive needs nothing in scope, and a `#[param]` field of every kind.
#![deny(warnings)]
#![forbid(unsafe_code)]
#![no_implicit_prelude]

type Array = ::mlx_train::Array;
type Param<T> = ::mlx_train::mlx_rs::module::Param<T>;

#[derive(::mlx_train::ModuleParameters)]
pub struct Layer {
    #[param]
    pub weight: Param<Array>,
    #[param]
    pub bias: Param<::std::option::Option<Array>>,
}

#[derive(::mlx_train::ModuleParameters)]
pub struct Model<M, N> {
    #[param]
    pub one: Layer,
    #[param]
    pub list: ::std::vec::Vec<M>,
    #[param]
    pub maybe: ::std::option::Option<::std::boxed::Box<Layer>>,
    #[param(rename = "self_attn.q_proj")]
    pub renamed: ::std::boxed::Box<dyn ::mlx_train::model::BaseModel>,
    pub other: N,
}

fn main() {}
