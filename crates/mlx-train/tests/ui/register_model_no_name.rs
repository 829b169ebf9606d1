use mlx_train::register_model;

#[register_model]
struct CustomTransformer;

fn main() {}
