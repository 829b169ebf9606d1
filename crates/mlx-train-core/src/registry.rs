//! Look-up of models by name.
