//! Rows that go back to a shard, which computes what is left to do of them.

use crate::error::{Error, SqlState};
use crate::wire::message::{Bind, Reader};

/// Rows that are sent back at most.
const MAX_ROWS: usize = 100_000;
/// Bytes that they may have together.
const MAX_BYTES: usize = 32 << 20;

/// The last statement, and what has been collected for it.
#[derive(Debug)]
pub(super) struct Final {
    sql: String,
    /// The types of all parameters.
    types: Vec<u32>,
    /// The client's values and their formats, one each.
    given: Vec<(i16, Option<Vec<u8>>)>,
    /// The formats that the client asks for.
    wanted: Vec<i16>,
    columns: Vec<Array>,
    rows: usize,
    bytes: usize,
}

/// A column: the elements of an array as they are sent in binary, each with its length.
#[derive(Debug)]
struct Array {
    element: u32,
    elements: Vec<u8>,
    has_null: bool,
}

impl Final {
    /// For columns of the types `elements`. `bound` is what follows the names in the client's Bind, if the statement has its parameters,
    /// whose types come first among `types`.
    pub(super) fn new(
        sql: String,
        types: Vec<u32>,
        elements: &[u32],
        bound: Option<&[u8]>,
        wanted: Vec<i16>,
    ) -> Option<Self> {
        let mut given = Vec::new();
        if let Some(bound) = bound {
            let parameters = Bind { portal: b"", statement: b"", rest: bound }.parameters()?;
            let format = |at: usize| match parameters.formats.as_slice() {
                [] => 0,
                [one] => *one,
                each => each.get(at).copied().unwrap_or(0),
            };
            let values = parameters.values.iter().enumerate();
            given.extend(values.map(|(at, value)| (format(at), value.map(<[u8]>::to_vec))));
        }
        let array = |element: &u32| Array { element: *element, elements: Vec::new(), has_null: false };
        Some(Self { sql, types, given, wanted, columns: elements.iter().map(array).collect(), rows: 0, bytes: 0 })
    }

    /// Takes the body of a DataRow, all in binary.
    ///
    /// # Errors
    /// 54000 when there are too many.
    pub(super) fn push(&mut self, body: &[u8]) -> Result<(), Error> {
        self.rows += 1;
        self.bytes += body.len();
        if self.rows > MAX_ROWS || self.bytes > MAX_BYTES {
            return Err(too_many());
        }
        let malformed = || Error::us(SqlState::INTERNAL_ERROR, "a row that was brought together cannot be read");
        let mut r = Reader::new(body);
        let count = r.count(4).ok_or_else(malformed)?;
        if count != self.columns.len() {
            return Err(malformed());
        }
        for column in &mut self.columns {
            let length = r.i32().ok_or_else(malformed)?;
            column.elements.extend_from_slice(&length.to_be_bytes());
            match usize::try_from(length) {
                Ok(length) => column.elements.extend_from_slice(r.bytes(length).ok_or_else(malformed)?),
                Err(_) => column.has_null = true,
            }
        }
        Ok(())
    }

    /// What the shard is sent.
    pub(super) fn request(&self) -> Vec<u8> {
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
        let parameters = self.given.len() + self.columns.len();
        let mut types = count(self.types.len()).to_vec();
        self.types.iter().for_each(|oid| types.extend_from_slice(&oid.to_be_bytes()));
        let mut bound = count(parameters).to_vec();
        self.given.iter().for_each(|(format, _)| bound.extend_from_slice(&format.to_be_bytes()));
        self.columns.iter().for_each(|_| bound.extend_from_slice(&1_i16.to_be_bytes()));
        bound.extend_from_slice(&count(parameters));
        for (_, value) in &self.given {
            match value {
                Some(value) => value_of(&mut bound, &[value]),
                None => bound.extend_from_slice(&(-1_i32).to_be_bytes()),
            }
        }
        for column in &self.columns {
            value_of(&mut bound, &[&column.head(self.rows), &column.elements]);
        }
        bound.extend_from_slice(&count(self.wanted.len()));
        self.wanted.iter().for_each(|format| bound.extend_from_slice(&format.to_be_bytes()));
        super::request(self.sql.as_bytes(), &types, &bound)
    }
}

impl Array {
    /// Dimensions, whether there are NULLs, the element's type; of the one dimension the length and the first index.
    fn head(&self, rows: usize) -> Vec<u8> {
        let rows = i32::try_from(rows).unwrap_or(i32::MAX);
        let mut head = i32::from(rows > 0).to_be_bytes().to_vec();
        head.extend_from_slice(&i32::from(self.has_null).to_be_bytes());
        head.extend_from_slice(&self.element.to_be_bytes());
        if rows > 0 {
            head.extend_from_slice(&rows.to_be_bytes());
            head.extend_from_slice(&1_i32.to_be_bytes());
        }
        head
    }
}

fn value_of(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn too_many() -> Error {
    Error::us(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!(
            "HAVING, expressions over groups, or an order by texts need more than {MAX_ROWS} rows or {} MiB of several shards",
            MAX_BYTES >> 20
        ),
    )
    .hint("Group by the sharding key, select fewer rows, write LIMIT, or ORDER BY ... COLLATE \"C\" where the order of bytes will do.")
    .because("finish_limit")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
        for cell in cells {
            match cell {
                Some(cell) => value_of(&mut body, &[cell]),
                None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
            }
        }
        body
    }

    #[test]
    fn columns_become_arrays_behind_the_clients_parameters() {
        let mut bound = Vec::new();
        // One format for all: text. One value.
        bound.extend_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0, 0, 1, b'7', 0, 0]);
        let mut last = Final::new("SELECT".to_owned(), vec![23, 1007], &[23], Some(&bound), vec![1]).unwrap();
        last.push(&row(&[Some(&[0, 0, 0, 5])])).unwrap();
        last.push(&row(&[None])).unwrap();
        assert!(last.push(&row(&[])).is_err(), "another number of columns");
        let mut last = Final { rows: 2, ..last };
        let request = last.request();
        let mut array = vec![0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1];
        array.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 5, 255, 255, 255, 255]);
        assert!(request.windows(array.len()).any(|window| window == array), "{request:?}");
        last.rows = MAX_ROWS;
        assert_eq!(last.push(&row(&[None])).unwrap_err().sqlstate, SqlState::PROGRAM_LIMIT_EXCEEDED);
    }

    #[test]
    fn no_rows_are_an_array_without_dimensions() {
        let last = Final::new("SELECT".to_owned(), vec![1007], &[23], None, Vec::new()).unwrap();
        let head = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23];
        assert!(last.request().windows(12).any(|window| window == head));
    }
}
