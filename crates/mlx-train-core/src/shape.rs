//! Shape assertions with named axes.
