//! PostgreSQL's `numeric`: exact decimals with a display scale, NaN and the infinities.
//!
//! Digits are of base 10000 as in the server, because the scale of a quotient depends on them (`select_div_scale` of
//! PostgreSQL's `numeric.c`), and because that is how binary values travel.
//! See <https://www.postgresql.org/docs/current/datatype-numeric.html>.

use std::cmp::Ordering;

use super::integer;
use super::refusal;
use crate::error::{Error, Result};

/// Decimal digits of a digit.
const DIGITS: usize = 4;
/// The base.
const BASE: u16 = 10_000;
/// Decimal digits behind the point that a value can have.
const MAX_DSCALE: usize = 0x3FFF;
/// The largest weight of a value.
const MAX_WEIGHT: i32 = 0x7FFF;
/// A quotient has at least so many significant decimal digits, if its scale allows.
const MIN_SIGNIFICANT: i64 = 16;
/// The largest scale of a quotient.
const MAX_DISPLAY_SCALE: i64 = 1000;
/// Digits of the longer operand of a product or quotient: more would keep a worker busy for too long.
const MAX_OPERAND: usize = 8192;

/// A value of type numeric. Compares as PostgreSQL's btree does: -Infinity, numbers, Infinity, NaN; the scale does not matter.
#[derive(Debug, Clone)]
pub enum Numeric {
    /// `-Infinity`.
    NegativeInfinity,
    /// A number.
    Finite(Decimal),
    /// `Infinity`.
    Infinity,
    /// `NaN`, which is equal to itself and greater than all else.
    NaN,
}

/// A number: the digits times 10000^weight for the first, and so on. No digit at either end is zero.
#[derive(Debug, Clone, Default)]
pub struct Decimal {
    negative: bool,
    weight: i32,
    dscale: usize,
    digits: Vec<u16>,
}

impl Numeric {
    /// Reads what `numeric_out` writes; none for anything else.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Option<Self> {
        match text {
            b"NaN" => return Some(Self::NaN),
            b"Infinity" => return Some(Self::Infinity),
            b"-Infinity" => return Some(Self::NegativeInfinity),
            _ => {}
        }
        let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
        let point = text.iter().position(|c| *c == b'.');
        let (whole, fraction) = point.map_or((text, &[][..]), |at| (&text[..at], &text[at + 1..]));
        let all_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
        if whole.is_empty() || (point.is_some() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let weight = whole.len().div_ceil(DIGITS);
        if weight > MAX_WEIGHT as usize + 1 || fraction.len() > MAX_DSCALE {
            return None;
        }
        // The first digit may be of fewer decimals, the last one is filled with zeros.
        let mut digits = Vec::with_capacity(weight + fraction.len().div_ceil(DIGITS));
        let first = whole.len() % DIGITS;
        let number = |decimals: &[u8]| decimals.iter().fold(0_u16, |sum, c| sum * 10 + u16::from(c - b'0'));
        if first > 0 {
            digits.push(number(&whole[..first]));
        }
        digits.extend(whole[first..].chunks(DIGITS).map(number));
        digits.extend(fraction.chunks(DIGITS).map(|chunk| number(chunk) * 10_u16.pow((DIGITS - chunk.len()) as u32)));
        Some(Self::Finite(Decimal { negative, weight: weight as i32 - 1, dscale: fraction.len(), digits }.normal()))
    }

    /// Reads what `numeric_send` writes; none for anything else.
    #[must_use]
    pub fn from_binary(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let negative = match word(4) {
            0x0000 => false,
            0x4000 => true,
            0xC000 => return Some(Self::NaN),
            0xD000 => return Some(Self::Infinity),
            0xF000 => return Some(Self::NegativeInfinity),
            _ => return None,
        };
        let digits: Vec<u16> = rest.chunks(2).map(|pair| pair.try_into().map_or(BASE, u16::from_be_bytes)).collect();
        let dscale = usize::from(word(6));
        if digits.len() != usize::from(word(0)) || dscale > MAX_DSCALE || digits.iter().any(|digit| *digit >= BASE) {
            return None;
        }
        let weight = i32::from(word(2).cast_signed());
        Some(Self::Finite(Decimal { negative, weight, dscale, digits }.normal()))
    }

    /// Appends it as `numeric_out` writes it.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        match self {
            Self::NaN => out.extend_from_slice(b"NaN"),
            Self::Infinity => out.extend_from_slice(b"Infinity"),
            Self::NegativeInfinity => out.extend_from_slice(b"-Infinity"),
            Self::Finite(decimal) => decimal.write_text(out),
        }
    }

    /// Appends it as `numeric_send` writes it.
    pub fn write_binary(&self, out: &mut Vec<u8>) {
        let head: [u16; 4] = match self {
            Self::NaN => [0, 0, 0xC000, 0],
            // The scale of 32 is what the server reads from the header of an infinity.
            Self::Infinity => [0, 0, 0xD000, 32],
            Self::NegativeInfinity => [0, 0, 0xF000, 32],
            Self::Finite(d) => [
                d.digits.len() as u16,
                (d.weight as i16).cast_unsigned(),
                if d.negative { 0x4000 } else { 0 },
                d.dscale as u16,
            ],
        };
        let digits: &[u16] = if let Self::Finite(decimal) = self { &decimal.digits } else { &[] };
        head.iter().chain(digits).for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
    }

    /// The sum, as PostgreSQL's `+` and `sum()`: the scale is the larger one.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => Self::Finite(a.add(b)),
            (Self::NaN, _)
            | (_, Self::NaN)
            | (Self::Infinity, Self::NegativeInfinity)
            | (Self::NegativeInfinity, Self::Infinity) => Self::NaN,
            (Self::Finite(_), infinite) | (infinite, _) => infinite.clone(),
        }
    }

    /// Bytes that it takes on the heap.
    #[must_use]
    pub fn heap_size(&self) -> usize {
        if let Self::Finite(decimal) = self { decimal.digits.capacity() * 2 } else { 0 }
    }

    /// 22003 if the server's format could not hold it.
    ///
    /// # Errors
    /// That.
    pub fn checked(self) -> Result<Self> {
        match &self {
            Self::Finite(decimal) if decimal.weight > MAX_WEIGHT || decimal.dscale > MAX_DSCALE => Err(overflow()),
            _ => Ok(self),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NegativeInfinity => 0,
            Self::Finite(_) => 1,
            Self::Infinity => 2,
            Self::NaN => 3,
        }
    }
}

impl From<i64> for Numeric {
    fn from(value: i64) -> Self {
        Self::Finite(Decimal::from(i128::from(value)))
    }
}

impl From<i128> for Numeric {
    fn from(value: i128) -> Self {
        Self::Finite(Decimal::from(value))
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => a.compare(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Numeric {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Numeric {}

fn overflow() -> Error {
    refusal::numeric_overflow()
}

/// `avg()` from a count above 0 and a sum: the quotient with the scale of PostgreSQL's division.
///
/// # Errors
/// 22003 when the sum alone overflows, 54000 for numbers of too many digits.
pub fn average(count: i64, sum: Numeric) -> Result<Numeric> {
    match sum.checked()? {
        Numeric::Finite(sum) => Ok(Numeric::Finite(sum.divide(&Decimal::from(i128::from(count)))?)),
        special => Ok(special),
    }
}

/// Variance or standard deviation, as `numeric_stddev_internal` of PostgreSQL: from the count, the sum and the sum of squares.
/// None: NULL.
///
/// # Errors
/// 22003 on overflow, 54000 for numbers of too many digits.
pub fn spread(count: i64, sum: &Numeric, squares: &Numeric, sample: bool, root: bool) -> Result<Option<Numeric>> {
    if count == 0 || (sample && count <= 1) {
        return Ok(None);
    }
    let (Numeric::Finite(sum), Numeric::Finite(squares)) = (sum, squares) else { return Ok(Some(Numeric::NaN)) };
    let count = i128::from(count);
    let n = Decimal::from(count);
    let square = sum.multiply(sum)?;
    let mut numerator = n.multiply(squares)?.subtract(&square);
    // The server computes both products to twice the scale of the sum.
    numerator.dscale = 2 * sum.dscale;
    if numerator.digits.is_empty() || numerator.negative {
        // Rounding may have made it negative.
        return Ok(Some(Numeric::from(0_i64)));
    }
    let denominator = Decimal::from(if sample { count * (count - 1) } else { count * count });
    let scale = division_scale(&numerator, &denominator);
    let variance = numerator.divide_to(&denominator, scale)?;
    let result = if root { variance.root(scale)? } else { variance };
    Numeric::Finite(result).checked().map(Some)
}

/// The scale of a quotient: `select_div_scale`.
fn division_scale(a: &Decimal, b: &Decimal) -> usize {
    let first = |d: &Decimal| d.digits.first().copied().unwrap_or(0);
    let weight = i64::from(a.weight) - i64::from(b.weight) - i64::from(first(a) <= first(b));
    let scale = (MIN_SIGNIFICANT - weight * DIGITS as i64).max(a.dscale as i64).max(b.dscale as i64);
    scale.clamp(0, MAX_DISPLAY_SCALE) as usize
}

impl From<i128> for Decimal {
    fn from(value: i128) -> Self {
        let mut digits = Vec::new();
        let mut rest = value.unsigned_abs();
        while rest > 0 {
            digits.push((rest % u128::from(BASE)) as u16);
            rest /= u128::from(BASE);
        }
        digits.reverse();
        Self { negative: value < 0, weight: digits.len() as i32 - 1, dscale: 0, digits }.normal()
    }
}

impl Decimal {
    /// Without zeros at the ends; zero has no sign and no weight.
    fn normal(mut self) -> Self {
        let zeros = self.digits.iter().take_while(|digit| **digit == 0).count();
        self.digits.drain(..zeros);
        self.weight -= zeros as i32;
        while self.digits.last() == Some(&0) {
            self.digits.pop();
        }
        if self.digits.is_empty() {
            self.weight = 0;
            self.negative = false;
        }
        self
    }

    /// The weight of the last digit.
    fn last_weight(&self) -> i32 {
        self.weight - self.digits.len() as i32 + 1
    }

    /// The digit of a weight.
    fn at(&self, weight: i32) -> u16 {
        usize::try_from(self.weight - weight).ok().and_then(|at| self.digits.get(at)).copied().unwrap_or(0)
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.compare_size(other),
            (true, true) => other.compare_size(self),
        }
    }

    fn compare_size(&self, other: &Self) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (false, false) => self.weight.cmp(&other.weight).then_with(|| self.digits.cmp(&other.digits)),
            (a_zero, b_zero) => b_zero.cmp(&a_zero),
        }
    }

    fn add(&self, other: &Self) -> Self {
        let dscale = self.dscale.max(other.dscale);
        let sum = if self.negative == other.negative {
            Self { negative: self.negative, ..self.add_sizes(other) }
        } else if self.compare_size(other).is_ge() {
            Self { negative: self.negative, ..self.subtract_sizes(other) }
        } else {
            Self { negative: other.negative, ..other.subtract_sizes(self) }
        };
        Self { dscale, ..sum }.normal()
    }

    fn subtract(&self, other: &Self) -> Self {
        self.add(&Self { negative: !other.negative, ..other.clone() })
    }

    /// The weights that two numbers span, from the highest to the lowest.
    fn span(&self, other: &Self) -> (i32, i32) {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (_, true) => (self.weight, self.last_weight()),
            (true, false) => (other.weight, other.last_weight()),
            (false, false) => (self.weight.max(other.weight), self.last_weight().min(other.last_weight())),
        }
    }

    fn add_sizes(&self, other: &Self) -> Self {
        let (high, low) = self.span(other);
        let mut digits = Vec::with_capacity((high - low + 2).max(1) as usize);
        let mut carry = 0;
        for weight in low..=high {
            let sum = self.at(weight) + other.at(weight) + carry;
            carry = u16::from(sum >= BASE);
            digits.push(sum - carry * BASE);
        }
        digits.push(carry);
        digits.reverse();
        Self { weight: high + 1, digits, ..Self::default() }
    }

    /// `other` is not larger.
    fn subtract_sizes(&self, other: &Self) -> Self {
        let (high, low) = self.span(other);
        let mut digits = Vec::with_capacity((high - low + 1).max(0) as usize);
        let mut borrow = 0;
        for weight in low..=high {
            let taken = other.at(weight) + borrow;
            borrow = u16::from(self.at(weight) < taken);
            digits.push(self.at(weight) + borrow * BASE - taken);
        }
        digits.reverse();
        Self { weight: high, digits, ..Self::default() }
    }

    /// The exact product.
    fn multiply(&self, other: &Self) -> Result<Self> {
        bounded(&self.digits, &other.digits)?;
        let digits = integer::multiply(&self.digits, &other.digits);
        let weight = self.last_weight() + other.last_weight() + digits.len() as i32 - 1;
        let dscale = self.dscale + other.dscale;
        Ok(Self { negative: self.negative != other.negative, weight, dscale, digits }.normal())
    }

    /// The quotient as PostgreSQL's `/` gives it; `other` is not zero.
    fn divide(&self, other: &Self) -> Result<Self> {
        self.divide_to(other, division_scale(self, other))
    }

    /// The quotient, rounded half away from zero to a scale.
    fn divide_to(&self, other: &Self, scale: usize) -> Result<Self> {
        // One decimal more than the scale at least, for the rounding; what is cut off behind it does not matter.
        let fraction = (scale + 1).div_ceil(DIGITS) as i32;
        let dividend = self.shifted(fraction - other.last_weight());
        bounded(&dividend, &other.digits)?;
        let Some(digits) = integer::divide(&dividend, &other.digits) else {
            return Err(refusal::fault("a division by zero"));
        };
        let weight = digits.len() as i32 - 1 - fraction;
        Ok(Self { negative: self.negative != other.negative, weight, dscale: scale, digits }.normal().round(scale))
    }

    /// The square root of a number that is not negative, rounded half up to a scale.
    fn root(&self, scale: usize) -> Result<Self> {
        let fraction = (scale + 1).div_ceil(DIGITS) as i32;
        let square = self.shifted(2 * fraction);
        bounded(&square, &[])?;
        let digits = integer::root(&square);
        let weight = digits.len() as i32 - 1 - fraction;
        Ok(Self { negative: false, weight, dscale: scale, digits }.normal().round(scale))
    }

    /// The digits of the whole part of the number times 10000^`by`, without its sign.
    fn shifted(&self, by: i32) -> Vec<u16> {
        let length = (self.weight + by + 1).max(0) as usize;
        let mut digits = self.digits.clone();
        if digits.is_empty() {
            return digits;
        }
        digits.resize(length, 0);
        digits
    }

    /// Rounds half away from zero to so many decimals.
    fn round(mut self, scale: usize) -> Self {
        let negative = self.negative;
        self.dscale = scale;
        // Weight of the digit in which the last decimal that stays is, and how many decimals of it go.
        let weight = -(scale.div_ceil(DIGITS) as i32);
        let gone = (DIGITS - scale % DIGITS) % DIGITS;
        if self.last_weight() > weight || self.digits.is_empty() {
            return self;
        }
        let unit = 10_u16.pow(gone as u32);
        let last = self.at(weight);
        let up = if gone == 0 { self.at(weight - 1) >= BASE / 2 } else { last % unit >= unit / 2 };
        let kept = (self.weight - weight + 1).max(0) as usize;
        self.digits.truncate(kept);
        if let Some(digit) = self.digits.last_mut().filter(|_| kept > 0) {
            *digit -= last % unit;
        }
        let cut = self.normal();
        if !up {
            return cut;
        }
        let one = Self { weight, digits: vec![unit], ..Self::default() };
        Self { negative, dscale: scale, ..cut.add_sizes(&one) }.normal()
    }

    fn write_text(&self, out: &mut Vec<u8>) {
        if self.negative {
            out.push(b'-');
        }
        if self.weight < 0 {
            out.push(b'0');
        }
        for weight in (0..=self.weight).rev() {
            let digit = self.at(weight);
            let text = if weight == self.weight { format!("{digit}") } else { format!("{digit:04}") };
            out.extend_from_slice(text.as_bytes());
        }
        if self.dscale == 0 {
            return;
        }
        out.push(b'.');
        let end = out.len() + self.dscale;
        let mut weight = -1;
        while out.len() < end {
            out.extend_from_slice(format!("{:04}", self.at(weight)).as_bytes());
            weight -= 1;
        }
        out.truncate(end);
    }
}

fn bounded(a: &[u16], b: &[u16]) -> Result<()> {
    if a.len().max(b.len()) > MAX_OPERAND { Err(refusal::too_many_digits(MAX_OPERAND * DIGITS)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Numeric {
        Numeric::from_text(text.as_bytes()).unwrap()
    }

    fn show(numeric: &Numeric) -> String {
        let mut out = Vec::new();
        numeric.write_text(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn decimal(text: &str) -> Decimal {
        let Numeric::Finite(decimal) = parse(text) else { panic!("{text} is not a number") };
        decimal
    }

    #[test]
    fn what_is_read_is_written_again() {
        let texts = "0 0.0 0.000 1 -1 10 9999 10000 10001 99999999 0.1 0.0001 0.00001 -0.00000001 123456789.987654321 1.50 \
                     100000000000000000000 NaN Infinity -Infinity";
        for text in texts.split_whitespace() {
            let number = parse(text);
            assert_eq!(show(&number), text);
            let mut binary = Vec::new();
            number.write_binary(&mut binary);
            let again = Numeric::from_binary(&binary).unwrap();
            assert_eq!((show(&again), &again), (text.to_owned(), &number));
        }
        for wrong in ["", "-", ".", "1.", ".1", "1e5", "+1", " 1", "1,0", "nan", "--1"] {
            assert!(Numeric::from_text(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(Numeric::from_binary(&[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10]).is_none(), "a digit of 10000");
        assert!(Numeric::from_binary(&[0, 2, 0, 0, 0, 0, 0, 0, 0, 1]).is_none(), "a digit too few");
        assert_eq!(show(&parse("-0.00")), "0.00");
    }

    #[test]
    fn quotients_are_as_postgresql_gives_them() {
        // SELECT a / b of PostgreSQL 15.
        for (a, b, quotient) in [
            ("1", "3", "0.33333333333333333333"),
            ("2", "3", "0.66666666666666666667"),
            ("10", "3", "3.3333333333333333"),
            ("-10", "4", "-2.5000000000000000"),
            ("0", "7", "0.00000000000000000000"),
            ("100000", "3", "33333.333333333333"),
            ("1.000000000000000000000000", "8", "0.125000000000000000000000"),
        ] {
            let quotient_here = decimal(a).divide(&decimal(b)).unwrap();
            assert_eq!(show(&Numeric::Finite(quotient_here)), quotient, "{a} / {b}");
        }
    }

    #[test]
    fn spreads_have_their_edges() {
        let zero = Numeric::from(0_i64);
        assert_eq!(spread(0, &zero, &zero, false, false).unwrap(), None);
        assert_eq!(spread(1, &parse("5"), &parse("25"), true, false).unwrap(), None);
        assert_eq!(show(&spread(1, &parse("5"), &parse("25"), false, true).unwrap().unwrap()), "0");
        assert_eq!(spread(2, &Numeric::Infinity, &Numeric::Infinity, true, true).unwrap(), Some(Numeric::NaN));
        // SELECT stddev(x), var_pop(x) FROM (VALUES (1), (2), (4)) v(x)
        let (sum, squares) = (parse("7"), parse("21"));
        assert_eq!(show(&spread(3, &sum, &squares, true, true).unwrap().unwrap()), "1.5275252316519467");
        assert_eq!(show(&spread(3, &sum, &squares, false, false).unwrap().unwrap()), "1.5555555555555556");
    }

    #[test]
    fn order_is_the_btrees() {
        let sorted = "-Infinity -1000000 -10 -1.5 -1 -0.00001 0 0.00001 1 1.0001 2 9999 10000 Infinity NaN";
        let sorted: Vec<Numeric> = sorted.split_whitespace().map(parse).collect();
        for (at, a) in sorted.iter().enumerate() {
            for (bt, b) in sorted.iter().enumerate() {
                assert_eq!(a.cmp(b), at.cmp(&bt), "{a:?} {b:?}");
            }
        }
        assert_eq!(parse("1.0"), parse("1.00"));
    }

    #[test]
    fn sums_with_infinities() {
        assert_eq!(Numeric::Infinity.add(&Numeric::NegativeInfinity), Numeric::NaN);
        assert_eq!(Numeric::Infinity.add(&parse("-5")), Numeric::Infinity);
        assert_eq!(parse("-5").add(&Numeric::NegativeInfinity), Numeric::NegativeInfinity);
        assert_eq!(Numeric::NaN.add(&Numeric::Infinity), Numeric::NaN);
    }

    fn with_scale(units: i128, scale: usize) -> Decimal {
        let digits = units.unsigned_abs().to_string();
        let digits = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let point = if scale > 0 { "." } else { "" };
        decimal(&format!("{}{whole}{point}{fraction}", if units < 0 { "-" } else { "" }))
    }

    proptest! {
        #[test]
        fn agrees_with_integers(a in -(1_i128 << 60)..1 << 60, b in -(1_i128 << 60)..1 << 60, scale in 0_usize..20) {
            let (x, y) = (with_scale(a, scale), with_scale(b, scale));
            prop_assert_eq!(x.compare(&y), a.cmp(&b));
            let same = |got: Decimal, expected: Decimal| {
                prop_assert_eq!(show(&Numeric::Finite(got)), show(&Numeric::Finite(expected)));
                Ok(())
            };
            same(x.add(&y), with_scale(a + b, scale))?;
            same(x.subtract(&y), with_scale(a - b, scale))?;
            same(x.multiply(&y).unwrap(), with_scale(a * b, 2 * scale))?;
            if b != 0 {
                // Half away from zero, by whole numbers: |a| * 10^6 / |b|.
                let size = (a.abs() * 2_000_000 / b.abs() + 1) / 2;
                let quotient = if (a < 0) == (b < 0) { size } else { -size };
                same(x.divide_to(&y, 6).unwrap(), with_scale(quotient, 6))?;
            }
            let root = with_scale(a.abs(), scale).root(9).unwrap();
            let (low, high) = (root.add(&decimal("0.0000000005")), root.subtract(&decimal("0.0000000005")));
            let target = with_scale(a.abs(), scale);
            prop_assert!(low.multiply(&low).unwrap().compare(&target).is_gt());
            prop_assert!(high.negative || high.multiply(&high).unwrap().compare(&target).is_le());
        }

        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            for number in [Numeric::from_binary(&bytes), Numeric::from_text(&bytes)].into_iter().flatten() {
                let text = show(&number.add(&number));
                prop_assert!(Numeric::from_text(text.as_bytes()).is_some());
            }
        }
    }
}
