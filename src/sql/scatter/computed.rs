//! Whether a statement casts what it computes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::Node;
use pg_raw_parse::walk::{Recurse, walk_manual};

/// Whether something is cast in it that is neither a constant nor a parameter: a text may so become a date, or a time.
#[must_use]
pub fn casts_what_is_computed(text: &str) -> bool {
    let read = || {
        let Ok(tree) = pg_raw_parse::parse(text) else { return true };
        // A stack of its own: a tree may be deep.
        let mut stack: Vec<Node<'_>> = tree.stmts().collect();
        while let Some(node) = stack.pop() {
            if let Node::TypeCast(cast) = node
                && !matches!(cast.arg(), Node::A_Const(_) | Node::ParamRef(_))
            {
                return true;
            }
            walk_manual::<()>(node, |child| {
                stack.push(child);
                Recurse::no()
            });
        }
        false
    };
    // As in `parse`: what the bindings believe of the tree may prove wrong.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cast_of_a_cast_is_one_of_what_is_computed() {
        for text in [
            "INSERT INTO t VALUES ($1, $2)",
            "INSERT INTO t VALUES (1, $1::timestamptz), (2, 'a'::text)",
            "UPDATE t SET a = $1::date, b = 'x'::text WHERE k = 1",
        ] {
            assert!(!casts_what_is_computed(text), "{text}");
        }
        for text in [
            "INSERT INTO t VALUES (1, $1::text::timestamptz)",
            "UPDATE t SET a = coalesce($1, 'x')::date",
            "UPDATE t SET a = x.b::date FROM (VALUES ($1)) x (b)",
            "UPDATE t SET a = b FROM (VALUES (($1 || '')::date)) x (b)",
            "no sql",
        ] {
            assert!(casts_what_is_computed(text), "{text}");
        }
    }
}
