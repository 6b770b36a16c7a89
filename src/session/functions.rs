//! Function calls by the fast path, which name a function by its number.

/// The functions of large objects, by their numbers in pg_proc; sorted. libpq and others call them so, and what they leave behind is
/// over with the transaction.
const OF_LARGE_OBJECTS: &[u32] = &[715, 764, 765, 767, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172];

/// Whether a FunctionCall's function leaves nothing behind in the session, as far as is known of it.
pub(super) fn leaves_nothing(body: &[u8]) -> bool {
    let number = body.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
    number.is_some_and(|number| OF_LARGE_OBJECTS.binary_search(&number).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_objects_leave_nothing() {
        assert!(OF_LARGE_OBJECTS.is_sorted());
        for (body, expected) in [(&952_u32.to_be_bytes()[..], true), (&2078_u32.to_be_bytes(), false), (b"\0", false)] {
            assert_eq!(leaves_nothing(body), expected, "{body:?}");
        }
    }
}
