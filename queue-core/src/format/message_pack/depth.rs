//! How deeply a body is nested, found out before it is read. rmp-serde counts the levels of lists and maps, but not those
//! of enums: a type such as `enum Chain { Next(Box<Chain>), End }` would be read until the stack ends, and the process
//! with it.

use super::super::checked::MAX_DEPTH;

/// Two bytes a level is the least that an enum takes.
const SMALLEST: usize = 2 * MAX_DEPTH;

/// True if a body is nested so deeply that readers give up. What is no MessagePack is left to them.
pub(super) fn is_too_deep(body: &[u8]) -> bool {
    body.len() >= SMALLEST && walk(body).is_some()
}

/// Goes from value to value, without recursion. `None` at the end of the first one, or of the body.
fn walk(body: &[u8]) -> Option<TooDeep> {
    // How many values each list or map still wants.
    let mut open: Vec<usize> = Vec::with_capacity(8);
    let mut at = 0;
    loop {
        let (size, values) = head(body.get(at..)?)?;
        at = at.checked_add(size)?;
        if values > 0 {
            open.push(values);
            if open.len() >= MAX_DEPTH {
                return Some(TooDeep);
            }
            continue;
        }
        // A value is done, and with it each list or map whose last one it was.
        loop {
            let left = open.last_mut()?;
            *left -= 1;
            if *left > 0 {
                break;
            }
            open.pop();
        }
    }
}

struct TooDeep;

/// How many bytes a value's head takes, with its data if it is no list or map, and how many values follow inside it.
/// See <https://github.com/msgpack/msgpack/blob/master/spec.md>.
fn head(body: &[u8]) -> Option<(usize, usize)> {
    let number = |bytes: usize| -> Option<usize> {
        let digits = body.get(1..1 + bytes)?;
        Some(digits.iter().fold(0, |number, digit| number << 8 | usize::from(*digit)))
    };
    let marker = *body.first()?;
    let low = |mask: u8| usize::from(marker & mask);
    Some(match marker {
        0x80..=0x8f => (1, 2 * low(0x0f)),
        0x90..=0x9f => (1, low(0x0f)),
        0xa0..=0xbf => (1 + low(0x1f), 0),
        // Bytes and text of 8, 16 and 32 bits of length.
        0xc4 | 0xd9 => (2 + number(1)?, 0),
        0xc5 | 0xda => (3 + number(2)?, 0),
        0xc6 | 0xdb => (5 + number(4)?, 0),
        // Extensions have a type too.
        0xc7 => (3 + number(1)?, 0),
        0xc8 => (4 + number(2)?, 0),
        0xc9 => (6 + number(4)?, 0),
        0xd4..=0xd8 => (2 + (1 << (marker - 0xd4)), 0),
        0xcc | 0xd0 => (2, 0),
        0xcd | 0xd1 => (3, 0),
        0xca | 0xce | 0xd2 => (5, 0),
        0xcb | 0xcf | 0xd3 => (9, 0),
        0xdc => (3, number(2)?),
        0xdd => (5, number(4)?),
        0xde => (3, 2 * number(2)?),
        0xdf => (5, number(4)?.checked_mul(2)?),
        // Small numbers, nil, true and false.
        _ => (1, 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted_whatever_lies_beside_them() {
        let nested = |levels: usize| {
            // Each level holds every kind of value, and then the next level.
            let values: &[u8] = &[
                0x07, 0xc0, 0xa1, b'x', 0xc4, 1, 9, 0xd9, 1, b'x', 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 0xcd, 0, 1,
                0xd5, 0, 1, 2, 0xc7, 1, 0, 9, 0x90, 0x80,
            ];
            let level = [&[0xdc, 0, 12][..], values].concat();
            [level.repeat(levels), vec![0xc0]].concat()
        };

        assert!(!is_too_deep(&nested(MAX_DEPTH - 1)));
        assert!(is_too_deep(&nested(MAX_DEPTH)));
    }

    #[test]
    fn many_values_side_by_side_are_not_deep() {
        let pair = [0x81, 0xa1, b'k', 0x91, 0x01];
        let wide = [&[0xdc, 0x10, 0x00][..], &pair.repeat(0x1000)].concat();

        assert!(!is_too_deep(&wide));
    }
}
