//! The modules whose parameters a checkpoint takes.

use crate::Array;
use mlx_rs::module::ModuleParameters;
use std::{collections::HashSet, rc::Rc};

/// What a checkpoint runs on: one module, `&mut a`, or several, `(&mut a, &mut b)`.
///
/// A module is `Clone`: its function runs on a copy, all whose parameters are inputs of the checkpoint.
/// Parameters that the function moves (running statistics) move in the module itself; what it changes besides
/// parameters is lost.
pub trait Modules {
    /// Copies of the modules.
    type Copies: Copies;

    #[doc(hidden)]
    fn copies(&self) -> Self::Copies;

    #[doc(hidden)]
    fn lend(&mut self) -> <Self::Copies as Copies>::Lent<'_>;
}

/// Copies of [`Modules`].
pub trait Copies: Send + 'static {
    /// The modules, while a function runs.
    type Lent<'a>;

    #[doc(hidden)]
    fn lend(&mut self) -> Self::Lent<'_>;

    /// Calls `f` with each module.
    #[doc(hidden)]
    fn each(lent: Self::Lent<'_>, f: &mut dyn FnMut(&mut dyn ModuleParameters));
}

/// The copy of one module.
#[derive(Debug)]
pub struct One<M>(M);

impl<M: ModuleParameters + Clone + Send + 'static> Modules for &mut M {
    type Copies = One<M>;

    fn copies(&self) -> One<M> {
        One((**self).clone())
    }

    fn lend(&mut self) -> &mut M {
        self
    }
}

impl<M: ModuleParameters + Clone + Send + 'static> Copies for One<M> {
    type Lent<'a> = &'a mut M;

    fn lend(&mut self) -> &mut M {
        &mut self.0
    }

    fn each(lent: &mut M, f: &mut dyn FnMut(&mut dyn ModuleParameters)) {
        f(lent);
    }
}

macro_rules! several {
    ($($module:ident $index:tt),*) => {
        impl<$($module: ModuleParameters + Clone + Send + 'static),*> Modules for ($(&mut $module,)*) {
            type Copies = ($($module,)*);

            fn copies(&self) -> Self::Copies {
                ($(self.$index.clone(),)*)
            }

            fn lend(&mut self) -> ($(&mut $module,)*) {
                ($(&mut *self.$index,)*)
            }
        }

        impl<$($module: ModuleParameters + Clone + Send + 'static),*> Copies for ($($module,)*) {
            type Lent<'a> = ($(&'a mut $module,)*);

            fn lend(&mut self) -> ($(&mut $module,)*) {
                ($(&mut self.$index,)*)
            }

            fn each(lent: Self::Lent<'_>, f: &mut dyn FnMut(&mut dyn ModuleParameters)) {
                $(f(lent.$index);)*
            }
        }
    };
}

several!(A 0, B 1);
several!(A 0, B 1, C 2);
several!(A 0, B 1, C 2, D 3);

/// The parameters of modules in an order that copies have in common, and whether each is not frozen.
pub(super) fn parameters<C: Copies>(lent: C::Lent<'_>) -> Vec<(Array, bool)> {
    let mut all = Vec::new();
    C::each(lent, &mut |module| {
        let trained: HashSet<Rc<str>> =
            module.trainable_parameters().flatten().into_keys().collect();
        let mut named: Vec<_> = module.parameters().flatten().into_iter().collect();
        named.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all.extend(named.into_iter().map(|(name, value)| (value.clone(), trained.contains(&name))));
    });
    all
}

/// Puts `value` of its position in the place of each parameter that it has one for.
pub(super) fn set_parameters<C: Copies>(lent: C::Lent<'_>, value: impl Fn(usize) -> Option<Array>) {
    let mut index = 0;
    C::each(lent, &mut |module| {
        let mut named: Vec<_> = module.parameters_mut().flatten().into_iter().collect();
        named.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (_, parameter) in named {
            if let Some(value) = value(index) {
                *parameter = value;
            }
            index += 1;
        }
    });
}
