//! Answers of the console in binary, for the drivers that ask for all results so. What SHOW writes is text; each cell is turned into what
//! PostgreSQL sends for a value of the column's type.

use crate::wire::{encode, message};

const INT8: u32 = 20;
const INT4: u32 = 23;
const NUMERIC: u32 = 1700;

/// Digits of one of a numeric's places.
const PLACE: usize = 4;

/// The formats of a portal's columns, as Bind asks for them: none, one for all, or one each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Formats(Vec<i16>);

impl Formats {
    /// None if one of them is neither text nor binary.
    pub(super) fn new(formats: Vec<i16>) -> Option<Self> {
        formats.iter().all(|format| matches!(format, 0 | 1)).then_some(Self(formats))
    }

    fn of(&self, column: usize) -> i16 {
        match self.0.as_slice() {
            [] => 0,
            [one] => *one,
            all => all.get(column).copied().unwrap_or(0),
        }
    }

    fn are_text(&self) -> bool {
        !self.0.contains(&1)
    }

    /// A RowDescription in these formats; none if it needs no change.
    pub(super) fn description(&self, body: &[u8]) -> Option<Vec<u8>> {
        if self.are_text() {
            return None;
        }
        let columns = message::row_description(body)?;
        let columns: Vec<_> =
            columns.into_iter().map(|(name, oid)| (String::from_utf8_lossy(name).into_owned(), oid)).collect();
        let columns: Vec<_> = columns.iter().map(|(name, oid)| (name.as_str(), *oid)).collect();
        let mut out = Vec::new();
        encode::row_description_in(&mut out, &columns, |column| self.of(column));
        Some(out)
    }

    /// A DataRow in these formats, its columns being of `types`; none if it needs no change.
    pub(super) fn row(&self, body: &[u8], types: &[u32]) -> Option<Vec<u8>> {
        if self.are_text() {
            return None;
        }
        let cells = message::data_row(body)?.into_iter().zip(types).enumerate();
        let cell = |(column, (text, oid)): (usize, (Option<String>, &u32))| {
            let text = text?;
            if self.of(column) == 0 { Some(text.into_bytes()) } else { Some(binary(&text, *oid)) }
        };
        let cells: Vec<Option<Vec<u8>>> = cells.map(cell).collect();
        let mut out = Vec::new();
        encode::data_row(&mut out, &cells);
        Some(out)
    }
}

/// A value of the type in binary. Every cell of SHOW is of its column's type, so that nothing is lost here.
fn binary(text: &str, oid: u32) -> Vec<u8> {
    let number = match oid {
        INT4 => text.parse::<i32>().map(|n| n.to_be_bytes().to_vec()).ok(),
        INT8 => text.parse::<i64>().map(|n| n.to_be_bytes().to_vec()).ok(),
        NUMERIC => numeric(text),
        _ => None,
    };
    number.unwrap_or_else(|| text.as_bytes().to_vec())
}

/// As `numeric_send` writes it: the number of places of four decimal digits each, the weight of the first, the sign, the digits behind the
/// point, and the places.
/// <https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/numeric.c>
fn numeric(text: &str) -> Option<Vec<u8>> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let padded = |len: usize| len.div_ceil(PLACE) * PLACE;
    let all =
        format!("{whole:0>before$}{fraction:0<behind$}", before = padded(whole.len()), behind = padded(fraction.len()));
    let places = all.as_bytes().chunks(PLACE).map(|place| std::str::from_utf8(place).ok()?.parse::<u16>().ok());
    let mut places: Vec<u16> = places.collect::<Option<_>>()?;
    let mut weight = i16::try_from(whole.len().div_ceil(PLACE)).ok()? - 1;
    while places.first() == Some(&0) {
        places.remove(0);
        weight -= 1;
    }
    while places.last() == Some(&0) {
        places.pop();
    }
    let head = [
        i16::try_from(places.len()).ok()?,
        if places.is_empty() { 0 } else { weight },
        if negative && !places.is_empty() { 0x4000 } else { 0 },
        i16::try_from(fraction.len()).ok()?,
    ];
    let head = head.into_iter().flat_map(i16::to_be_bytes);
    Some(head.chain(places.into_iter().flat_map(u16::to_be_bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<u16> {
        numeric(text).unwrap().chunks(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect()
    }

    #[test]
    fn numbers_are_what_postgresql_sends() {
        assert_eq!(places("0"), [0, 0, 0, 0]);
        assert_eq!(places("7"), [1, 0, 0, 0, 7]);
        assert_eq!(places("10000"), [1, 1, 0, 0, 1]);
        assert_eq!(places("123456789"), [3, 2, 0, 0, 1, 2345, 6789]);
        assert_eq!(places("1.750"), [2, 0, 0, 3, 1, 7500]);
        assert_eq!(places("-0.00012"), [2, 0xffff, 0x4000, 5, 1, 2000]);
        assert_eq!(places("-0.0"), [0, 0, 0, 1]);
        assert_eq!(numeric("many"), None);
        assert_eq!(binary("-2", INT4), [0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(binary("5", INT8), [0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(binary("text", 25), b"text");
    }

    #[test]
    fn formats_are_for_none_for_all_or_for_each() {
        let (mut description, mut row) = (Vec::new(), Vec::new());
        encode::row_description(&mut description, &[("n", INT4), ("s", 25)]);
        encode::data_row(&mut row, &[Some("1"), Some("x")]);
        let body = |message: &[u8]| message[5..].to_vec();
        let (description, row) = (body(&description), body(&row));
        for formats in [vec![], vec![0], vec![0, 0]] {
            let formats = Formats::new(formats).unwrap();
            assert_eq!((formats.description(&description), formats.row(&row, &[INT4, 25])), (None, None));
        }
        for formats in [vec![1], vec![1, 0]] {
            let formats = Formats::new(formats).unwrap();
            let message = formats.row(&row, &[INT4, 25]).unwrap();
            assert_eq!(&message[5..], [0, 2, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, b'x']);
            let message = formats.description(&description).unwrap();
            assert_eq!(message.len(), 5 + description.len());
            assert_eq!(message[5 + 2 + 2 + 16..][..2], [0, 1], "the first column's format");
        }
        assert_eq!(Formats::new(vec![0, 2]), None);
    }
}
