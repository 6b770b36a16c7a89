//! Whole numbers of any length, as digits of base 10000, the first the most significant: what `numeric` needs of them.
//! The schoolbook's methods: operands are short.

const BASE: u64 = 10_000;

/// Without zeros before it.
fn trimmed(digits: &[u16]) -> &[u16] {
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    &digits[zeros..]
}

/// The product, as long as both operands together.
pub(super) fn multiply(a: &[u16], b: &[u16]) -> Vec<u16> {
    // A column is at most 10^8 times the length of an operand: far from the end of u64.
    let mut columns = vec![0_u64; a.len() + b.len()];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            columns[i + j + 1] += u64::from(*x) * u64::from(*y);
        }
    }
    let mut carry = 0;
    let mut digits = vec![0; columns.len()];
    for (digit, column) in digits.iter_mut().zip(&columns).rev() {
        let sum = column + carry;
        *digit = (sum % BASE) as u16;
        carry = sum / BASE;
    }
    digits
}

/// The quotient, rounded down; none when the divisor is zero.
///
/// Knuth, The Art of Computer Programming, volume 2, 4.3.1, algorithm D.
pub(super) fn divide(a: &[u16], b: &[u16]) -> Option<Vec<u16>> {
    let (a, b) = (trimmed(a), trimmed(b));
    let first = u64::from(*b.first()?);
    if b.len() == 1 {
        let mut rest = 0;
        let step = |digit: &u16| {
            let value = rest * BASE + u64::from(*digit);
            rest = value % first;
            (value / first) as u16
        };
        return Some(a.iter().map(step).collect());
    }
    if a.len() < b.len() {
        return Some(Vec::new());
    }
    // Both are multiplied so that the divisor's first digit is at least half of the base: the guess is then off by two at most.
    let factor = BASE / (first + 1);
    let mut rest = scaled(a, factor);
    let divisor = scaled(b, factor);
    let divisor = &divisor[1..];
    let mut quotient = Vec::with_capacity(a.len() - b.len() + 1);
    for at in 0..=a.len() - b.len() {
        let top = rest[at] * BASE + rest[at + 1];
        let mut guess = (top / divisor[0]).min(BASE - 1);
        while guess * divisor[1] > (top - guess * divisor[0]) * BASE + rest[at + 2] {
            guess -= 1;
            if top - guess * divisor[0] >= BASE {
                break;
            }
        }
        if subtract_multiple(&mut rest[at..=at + divisor.len()], divisor, guess) {
            guess -= 1;
            add_back(&mut rest[at..=at + divisor.len()], divisor);
        }
        quotient.push(guess as u16);
    }
    Some(quotient)
}

/// A number times a digit, one digit longer.
fn scaled(digits: &[u16], factor: u64) -> Vec<u64> {
    let mut out = vec![0; digits.len() + 1];
    let mut carry = 0;
    for (place, digit) in out[1..].iter_mut().zip(digits).rev() {
        let value = u64::from(*digit) * factor + carry;
        *place = value % BASE;
        carry = value / BASE;
    }
    out[0] = carry;
    out
}

/// Takes `times` times the divisor from a part that is one digit longer; whether that was once too often.
fn subtract_multiple(part: &mut [u64], divisor: &[u64], times: u64) -> bool {
    let mut borrow = 0;
    for (place, digit) in part[1..].iter_mut().zip(divisor).rev() {
        let taken = digit * times + borrow;
        let lacking = taken.saturating_sub(*place).div_ceil(BASE);
        *place = *place + lacking * BASE - taken;
        borrow = lacking;
    }
    let below = part[0] < borrow;
    part[0] = if below { part[0] + BASE - borrow } else { part[0] - borrow };
    below
}

fn add_back(part: &mut [u64], divisor: &[u64]) {
    let mut carry = 0;
    for (place, digit) in part[1..].iter_mut().zip(divisor).rev() {
        let sum = *place + digit + carry;
        *place = sum % BASE;
        carry = sum / BASE;
    }
    part[0] = (part[0] + carry) % BASE;
}

/// The square root, rounded down: Newton's method from above.
pub(super) fn root(square: &[u16]) -> Vec<u16> {
    let square = trimmed(square);
    if square.is_empty() {
        return Vec::new();
    }
    let mut root = vec![1];
    root.resize(square.len().div_ceil(2) + 1, 0);
    loop {
        let quotient = divide(square, &root).unwrap_or_default();
        let next = half(&sum(&root, &quotient));
        if trimmed(&next).len() > root.len() || (trimmed(&next).len() == root.len() && *trimmed(&next) >= *root) {
            return root;
        }
        root = trimmed(&next).to_vec();
    }
}

fn sum(a: &[u16], b: &[u16]) -> Vec<u16> {
    let length = a.len().max(b.len()) + 1;
    let mut digits = vec![0; length];
    let mut carry = 0;
    for place in 0..length {
        let digit = |of: &[u16]| of.len().checked_sub(place + 1).map_or(0, |at| of[at]);
        let value = digit(a) + digit(b) + carry;
        digits[length - 1 - place] = value % 10_000;
        carry = value / 10_000;
    }
    digits
}

fn half(digits: &[u16]) -> Vec<u16> {
    divide(digits, &[2]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Mostly at the ends of the range, where guesses are wrong.
    fn digits() -> impl Strategy<Value = Vec<u16>> {
        vec(prop_oneof![Just(0), Just(1), Just(9999), Just(5000), Just(4999), 0_u16..10_000], 0..12)
    }

    proptest! {
        #[test]
        fn quotient_times_divisor_is_just_below(a in digits(), b in digits()) {
            let Some(quotient) = divide(&a, &b) else {
                prop_assert!(trimmed(&b).is_empty());
                return Ok(());
            };
            prop_assert!(quotient.iter().all(|digit| *digit < 10_000));
            let at_least = |x: &[u16], y: &[u16]| {
                let (x, y) = (trimmed(x), trimmed(y));
                (x.len(), x) >= (y.len(), y)
            };
            prop_assert!(at_least(&a, &multiply(&quotient, &b)));
            prop_assert!(!at_least(&a, &multiply(&sum(&quotient, &[1]), &b)));
        }

        #[test]
        fn square_of_root_is_just_below(a in digits()) {
            let root = root(&a);
            let at_least = |x: &[u16], y: &[u16]| (trimmed(x).len(), trimmed(x)) >= (trimmed(y).len(), trimmed(y));
            prop_assert!(at_least(&a, &multiply(&root, &root)));
            let more = sum(&root, &[1]);
            prop_assert!(!at_least(&a, &multiply(&more, &more)));
        }
    }
}
