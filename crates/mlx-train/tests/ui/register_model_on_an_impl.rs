use mlx_train::register_model;

struct Model;

#[register_model("model")]
impl Model {}

fn main() {}
