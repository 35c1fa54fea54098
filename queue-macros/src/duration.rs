//! Durations as the attribute writes them: `"500ms"`, `"30s"`, `"1h30m"`, `"7d"`.

/// The units, longest first, with their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a duration in milliseconds.
///
/// A number and a unit, or several with the longest unit first. The error is a sentence for the user.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let form = r#"write a whole number and a unit, as in "500ms", "30s", "1h30m" or "7d""#;
    if text.is_empty() {
        return Err(format!("an empty duration: {form}"));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    // Only units after this one may follow, so that "30m1h", a likely slip, is not taken for 90 minutes.
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len() - tail.trim_start_matches(|c: char| c.is_alphabetic()).len();
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(format!("`{text}` is not a duration: {form}"));
        }
        if unit.is_empty() {
            return Err(if tail.is_empty() {
                format!("`{text}` has no unit: {form}")
            } else {
                format!("`{text}` is not a duration: {form}")
            });
        }
        let Some(index) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(format!(
                "unknown unit `{unit}` in `{text}`: the units are `ms`, `s`, `m`, `h` and `d`"
            ));
        };
        if index < next_unit {
            return Err(format!("`{text}` mixes up its units: write each once, the longest first"));
        }
        next_unit = index + 1;
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(UNITS[index].1))
            .and_then(|millis| total.checked_add(millis))
            .ok_or_else(|| format!("`{text}` is too long: more milliseconds than fit into 64 bits"))?;
        rest = tail;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_milliseconds() {
        assert_eq!(parse("500ms"), Ok(500));
        assert_eq!(parse("30s"), Ok(30_000));
        assert_eq!(parse("7d"), Ok(604_800_000));
        assert_eq!(parse("1h30m"), Ok(5_400_000));
        assert_eq!(parse("1m500ms"), Ok(60_500));
        assert_eq!(parse("0s"), Ok(0));
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        let refusal = |text| parse(text).unwrap_err();

        assert!(refusal("").starts_with("an empty duration"));
        assert!(refusal("30").starts_with("`30` has no unit"));
        assert!(refusal("30sec").starts_with("unknown unit `sec` in `30sec`"));
        assert!(refusal("5us").starts_with("unknown unit `us`"));
        assert!(refusal("1.5s").starts_with("`1.5s` is not a duration"));
        assert!(refusal("-1s").starts_with("`-1s` is not a duration"));
        assert!(refusal("30 s").starts_with("`30 s` is not a duration"));
        assert!(refusal("30m1h").contains("the longest first"));
        assert!(refusal("1h1h").contains("each once"));
        assert!(refusal("99999999999999999999d").contains("too long"));
    }
}
