//! Whether the type of a parameter is known that gives a sharding key.
//!
//! Where Parse declares no type, PostgreSQL takes that of the first use that it comes to when it analyses the statement
//! (`variable_coerce_param_hook` in `parse_param.c`), and reads the value by that type's input or receive function. Which use
//! comes first is not reproduced here: the uses must agree, or the value must be one that is the same key in every type that
//! can stand there.

use std::collections::BTreeMap;

use crate::shard::key::{BoundParams, KeyError, type_of_name};
use crate::shard::map::KeyType;
use crate::sql::facts::{KeyValue, ParamUse};

/// An integer up to here is itself in every numeric type, float4 among them.
const EXACT_EVERYWHERE: u64 = 1 << 24;

/// The parameters that a statement names more than once.
#[derive(Debug, Default)]
pub(super) struct Params(BTreeMap<u16, Uses>);

#[derive(Debug, Default)]
struct Uses {
    /// It is cast to what is no key's type.
    foreign: bool,
    /// The key types it is cast to are of one family; this is one of them.
    cast: Option<KeyType>,
    /// How often it stands without a cast.
    bare: usize,
    /// How often of these as a key.
    as_key: usize,
}

impl Params {
    /// `repeated`: their uses. `keys`: the values that give keys, all of one family of types.
    pub(super) fn of<'v>(repeated: &[ParamUse], keys: impl Iterator<Item = &'v KeyValue>) -> Self {
        let mut params = Self::default();
        if repeated.is_empty() {
            return params;
        }
        for used in repeated {
            let uses = params.0.entry(used.number).or_default();
            match used.cast.as_deref().map(type_of_name) {
                None => uses.bare = uses.bare.saturating_add(1),
                Some(Some(to)) if uses.cast.is_none_or(|cast| cast.reads_as(to)) => uses.cast = Some(to),
                Some(_) => uses.foreign = true,
            }
        }
        for key in keys {
            if let KeyValue::Param { number, cast: None } = key
                && let Some(uses) = params.0.get_mut(number)
            {
                uses.as_key = uses.as_key.saturating_add(1);
            }
        }
        params
    }

    /// Checks a value that gives a key of `key_type`.
    ///
    /// # Errors
    /// [`KeyError::Undecided`] for a parameter that could be of another type.
    pub(super) fn check(
        &self,
        value: &KeyValue,
        key_type: KeyType,
        bound: Option<BoundParams<'_>>,
    ) -> Result<(), KeyError> {
        let (KeyValue::Param { number, cast }, Some(bound)) = (value, bound) else { return Ok(()) };
        let Some(uses) = self.0.get(number) else { return Ok(()) };
        if bound.declared(*number).is_some() {
            return Ok(());
        }
        let fits = !uses.foreign && uses.cast.is_none_or(|to| to.reads_as(key_type));
        // A cast may turn what is no number into one ('101'::bit(8)::int4); a comparison or an assignment of a key does not.
        let harmless = cast.is_none() && is_integer(key_type) && is_small_number(bound, *number);
        if (fits && uses.bare == uses.as_key) || harmless { Ok(()) } else { Err(KeyError::Undecided(*number)) }
    }
}

/// The same of values that give keys of several families of types: a key of several columns, or keys of several tables.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<(KeyType, Params)>);

impl Families {
    /// `keys`: the values that give keys, each with the type of its column.
    pub(super) fn of<'v>(repeated: &[ParamUse], keys: impl Iterator<Item = (KeyType, &'v KeyValue)> + Clone) -> Self {
        let mut families: Vec<(KeyType, Params)> = Vec::new();
        if repeated.is_empty() {
            return Self(families);
        }
        for (key_type, _) in keys.clone() {
            if !families.iter().any(|(family, _)| family.reads_as(key_type)) {
                let alike = keys.clone().filter(|(other, _)| other.reads_as(key_type)).map(|(_, value)| value);
                families.push((key_type, Params::of(repeated, alike)));
            }
        }
        Self(families)
    }

    /// Checks a value that gives a key column of `key_type`.
    ///
    /// # Errors
    /// As of [`Params::check`].
    pub(super) fn check(
        &self,
        value: &KeyValue,
        key_type: KeyType,
        bound: Option<BoundParams<'_>>,
    ) -> Result<(), KeyError> {
        match self.0.iter().find(|(family, _)| family.reads_as(key_type)) {
            Some((_, params)) => params.check(value, key_type, bound),
            None => Ok(()),
        }
    }
}

fn is_integer(key_type: KeyType) -> bool {
    matches!(key_type, KeyType::Integer { .. })
}

/// Whether the value is, in text, a small number without sign: PostgreSQL's own types that an integer key can be compared with or
/// given all read it as that number.
fn is_small_number(bound: BoundParams<'_>, number: u16) -> bool {
    let Some(text) = bound.text(number) else { return false };
    let value = std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    value.and_then(|t| t.parse::<u64>().ok()).is_some_and(|value| value <= EXACT_EVERYWHERE)
}
