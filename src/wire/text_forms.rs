//! Types whose values have a text form in the lake and another one on the wire: addresses, bits, times with a zone,
//! single bytes. Both directions stand side by side.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::temporal::{TIME_MAX_US, fixed};
use super::{FieldError, ValueError};

/// Address families of `inet_send`.
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 3;
/// The largest zone offset that Postgres takes, exclusive: `TZDISP_LIMIT`, 16 hours.
const ZONE_LIMIT_SECONDS: i32 = 16 * 3600;

/// Writing to a `String` cannot fail.
macro_rules! put {
    ($out:expr, $($format:tt)*) => {{ let _ = write!($out, $($format)*); }};
}

/// Appends an `inet` as text; a mask of full length is left out.
///
/// # Shape
/// Family, mask bits, is-cidr flag, address length, address.
/// # Errors
/// [`FieldError::Malformed`].
pub fn inet_text(field: &[u8], out: &mut String) -> Result<(), FieldError> {
    let (address, bits, full) = address(field)?;
    put_ip(out, address);
    if bits != full {
        put!(out, "/{bits}");
    }
    Ok(())
}

/// Appends a `cidr` as text, always with its mask.
///
/// # Errors
/// [`FieldError::Malformed`].
pub fn cidr_text(field: &[u8], out: &mut String) -> Result<(), FieldError> {
    let (address, bits, _) = address(field)?;
    put_ip(out, address);
    put!(out, "/{bits}");
    Ok(())
}

/// As Postgres prints it, which shows the last 32 bits of `::1.2.3.4` as an address of version 4.
fn put_ip(out: &mut String, address: IpAddr) {
    match address {
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, high, _] if high != 0 => {
                let [.., a, b, c, d] = v6.octets();
                put!(out, "::{}", Ipv4Addr::new(a, b, c, d));
            }
            _ => put!(out, "{v6}"),
        },
        IpAddr::V4(v4) => put!(out, "{v4}"),
    }
}

fn address(field: &[u8]) -> Result<(IpAddr, u8, u8), FieldError> {
    let (address, bits, full) = match *field {
        [FAMILY_V4, bits, _, 4, ref address @ ..] => (IpAddr::V4(Ipv4Addr::from(fixed::<4>(address)?)), bits, 32),
        [FAMILY_V6, bits, _, 16, ref address @ ..] => (IpAddr::V6(Ipv6Addr::from(fixed::<16>(address)?)), bits, 128),
        _ => return Err(FieldError::Malformed("network address")),
    };
    if bits > full { Err(FieldError::Malformed("network address")) } else { Ok((address, bits, full)) }
}

/// Reads an address with an optional mask as the bytes of an `inet` or, where no host bit may be set, a `cidr`.
///
/// # Errors
/// [`ValueError::Unreadable`] for other text; [`ValueError::HostBits`].
pub fn put_address(out: &mut Vec<u8>, text: &str, is_cidr: bool) -> Result<(), ValueError> {
    let (address, bits) = match text.trim_ascii().split_once('/') {
        Some((address, bits)) if bits.len() <= 3 && bits.bytes().all(|byte| byte.is_ascii_digit()) => {
            (address, Some(bits.parse::<u8>().map_err(|_| ValueError::Unreadable)?))
        }
        Some(_) => return Err(ValueError::Unreadable),
        None => (text.trim_ascii(), None),
    };
    let address: IpAddr = address.parse().map_err(|_| ValueError::Unreadable)?;
    let (family, full, number) = match address {
        IpAddr::V4(v4) => (FAMILY_V4, 32_u8, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => (FAMILY_V6, 128, v6.to_bits()),
    };
    let bits = bits.unwrap_or(full);
    if bits > full {
        return Err(ValueError::Unreadable);
    }
    let host_bits = number.checked_shl(u32::from(bits)).unwrap_or(0);
    if is_cidr && host_bits != 0 {
        return Err(ValueError::HostBits);
    }
    out.extend_from_slice(&[family, bits, u8::from(is_cidr), full / 8]);
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
    Ok(())
}

/// Appends a `macaddr` (6 bytes) or `macaddr8` (8 bytes) as pairs of hexadecimal digits with colons.
///
/// # Errors
/// [`FieldError::Length`].
pub fn macaddr_text<const N: usize>(field: &[u8], out: &mut String) -> Result<(), FieldError> {
    for (index, byte) in fixed::<N>(field)?.iter().enumerate() {
        let colon = if index > 0 { ":" } else { "" };
        put!(out, "{colon}{byte:02x}");
    }
    Ok(())
}

/// Reads an address of `N` bytes: pairs of hexadecimal digits, with or without colons or hyphens between them.
///
/// # Errors
/// [`ValueError::Unreadable`].
pub fn put_macaddr<const N: usize>(out: &mut Vec<u8>, text: &str) -> Result<(), ValueError> {
    let text = text.trim_ascii().as_bytes();
    let separated = text.len() == 3 * N - 1;
    if !separated && text.len() != 2 * N {
        return Err(ValueError::Unreadable);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.chunks(if separated { 3 } else { 2 });
    let mut address = [0; N];
    for (slot, pair) in address.iter_mut().zip(pairs) {
        *slot = match *pair {
            [high, low] | [high, low, b':' | b'-'] => digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        }
        .ok_or(ValueError::Unreadable)?;
    }
    out.extend_from_slice(&address);
    Ok(())
}

/// Appends a `bit` or `varbit` as zeros and ones.
///
/// # Shape
/// Count of bits i32, then the bits, the first one highest, the last byte filled up with zeros.
/// # Errors
/// [`FieldError::Malformed`].
pub fn bits_text(field: &[u8], out: &mut String) -> Result<(), FieldError> {
    let malformed = FieldError::Malformed("bit string");
    let (count, bytes) = field.split_first_chunk().ok_or(FieldError::Malformed("bit string"))?;
    let count = usize::try_from(i32::from_be_bytes(*count)).map_err(|_| FieldError::Malformed("bit string"))?;
    let padding = bytes.len() * 8 - count.min(bytes.len() * 8);
    if bytes.len() != count.div_ceil(8)
        || bytes.last().is_some_and(|last| last.trailing_zeros() < u32::try_from(padding).unwrap_or(8))
    {
        return Err(malformed);
    }
    let bit = |index: usize| bytes.get(index / 8).is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0);
    out.extend((0..count).map(|index| if bit(index) { '1' } else { '0' }));
    Ok(())
}

/// Reads zeros and ones as a bit string of exactly `bits`, or of at most `max_bits`.
///
/// # Errors
/// [`ValueError::Unreadable`], [`ValueError::Bits`].
pub fn put_bits(out: &mut Vec<u8>, text: &str, bits: Option<u32>, max_bits: Option<u32>) -> Result<(), ValueError> {
    let count = i32::try_from(text.len()).map_err(|_| ValueError::TooBig)?;
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    if let Some(limit) = bits.filter(|bits| *bits != length).or(max_bits.filter(|max| *max < length)) {
        return Err(ValueError::Bits { bits: length, limit });
    }
    out.extend_from_slice(&count.to_be_bytes());
    for eight in text.as_bytes().chunks(8) {
        let mut byte = 0_u8;
        for (index, digit) in eight.iter().enumerate() {
            match digit {
                b'0' => {}
                b'1' => byte |= 0x80 >> index,
                _ => return Err(ValueError::Unreadable),
            }
        }
        out.push(byte);
    }
    Ok(())
}

/// Appends a `timetz` as Postgres prints it, such as `12:34:56.5+05:45`.
///
/// # Shape
/// Microseconds since midnight of the local time i64, zone in seconds west of UTC i32.
/// # Errors
/// [`FieldError::Length`], [`FieldError::Malformed`].
pub fn timetz_text(field: &[u8], out: &mut String) -> Result<(), FieldError> {
    let [m0, m1, m2, m3, m4, m5, m6, m7, zone @ ..] = fixed::<12>(field)?;
    let micros = i64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
    let west = i32::from_be_bytes(zone);
    if !(0..=TIME_MAX_US).contains(&micros) || west.checked_abs().is_none_or(|west| west >= ZONE_LIMIT_SECONDS) {
        return Err(FieldError::Malformed("time with time zone"));
    }
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    put!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        put!(out, ".{fraction:06}");
        out.truncate(out.trim_end_matches('0').len());
    }
    let (sign, zone) = if west > 0 { ('-', west) } else { ('+', -west) };
    put!(out, "{sign}{:02}", zone / 3600);
    if zone % 3600 != 0 {
        put!(out, ":{:02}", zone / 60 % 60);
    }
    if zone % 60 != 0 {
        put!(out, ":{:02}", zone % 60);
    }
    Ok(())
}

/// A `timetz` read from text: microseconds since midnight, and seconds **west** of UTC.
///
/// # Errors
/// [`ValueError::Unreadable`], [`ValueError::OutOfRange`].
pub fn timetz_from_text(text: &str) -> Result<(i64, i32), ValueError> {
    let text = text.trim_ascii();
    let at = text.rfind(['+', '-']).ok_or(ValueError::Unreadable)?;
    let (time, zone) = text.split_at(at);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hours, minutes, seconds] = sexagesimal(time)?;
    if fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ValueError::Unreadable);
    }
    let fraction: i64 = format!("{fraction:0<6}").parse().map_err(|_| ValueError::Unreadable)?;
    let micros = (hours * 3600 + minutes * 60 + seconds) * 1_000_000 + fraction;
    let [zone_hours, zone_minutes, zone_seconds] = sexagesimal(zone.get(1..).unwrap_or_default())?;
    let offset = zone_hours * 3600 + zone_minutes * 60 + zone_seconds;
    if micros > TIME_MAX_US || minutes > 59 || seconds > 60 || offset >= i64::from(ZONE_LIMIT_SECONDS) {
        return Err(ValueError::OutOfRange);
    }
    let offset = i32::try_from(offset).map_err(|_| ValueError::OutOfRange)?;
    Ok((micros, if zone.starts_with('-') { offset } else { -offset }))
}

/// `12`, `12:34` or `12:34:56`.
fn sexagesimal(text: &str) -> Result<[i64; 3], ValueError> {
    let mut parts = [0; 3];
    let mut texts = text.split(':');
    for (index, slot) in parts.iter_mut().enumerate() {
        match texts.next() {
            Some(part) if part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit()) => {
                *slot = part.parse().map_err(|_| ValueError::Unreadable)?;
            }
            None if index > 0 => {}
            _ => return Err(ValueError::Unreadable),
        }
    }
    if texts.next().is_some() { Err(ValueError::Unreadable) } else { Ok(parts) }
}

/// Appends a `"char"` as Postgres prints it: nothing for the byte 0, `\ooo` from 0x80 on, else the character itself.
///
/// # Errors
/// [`FieldError::Length`] unless the field has 1 byte.
pub fn single_byte_text(field: &[u8], out: &mut String) -> Result<(), FieldError> {
    match fixed::<1>(field)? {
        [0] => {}
        [byte] if byte >= 0x80 => put!(out, "\\{byte:03o}"),
        [byte] => out.push(char::from(byte)),
    }
    Ok(())
}

/// The byte that such a text stands for.
///
/// # Errors
/// [`ValueError::Unreadable`].
pub fn single_byte_from_text(text: &str) -> Result<u8, ValueError> {
    match *text.as_bytes() {
        [] => Ok(0),
        [byte] if byte != 0 => Ok(byte),
        [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7'] => {
            Ok((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
        }
        _ => Err(ValueError::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use proptest::prelude::*;

    use super::*;

    fn text(form: impl Fn(&[u8], &mut String) -> Result<(), FieldError>, field: &[u8]) -> String {
        let mut out = String::new();
        form(field, &mut out).unwrap();
        out
    }

    #[test]
    fn text_that_is_no_value_is_refused() {
        for bad in ["", "1.2.3", "1.2.3.4/33", "::/129", "1.2.3.4/", "1.2.3.4/+1", "1.2.3.4 /8", "fe80::1%eth0"] {
            assert_eq!(put_address(&mut Vec::new(), bad, false), Err(ValueError::Unreadable), "{bad:?}");
        }
        assert_eq!(put_address(&mut Vec::new(), "10.0.0.1/8", true), Err(ValueError::HostBits));
        for bad in ["", "08:00:2b:01:02", "08:00:2b:01:02:0g", "08.00.2b.01.02.03", "08002b0102030"] {
            assert_eq!(put_macaddr::<6>(&mut Vec::new(), bad), Err(ValueError::Unreadable), "{bad:?}");
        }
        for bad in ["", "12:34", "12:34+", "1:2:3+01", "12:34:56.1234567+01", "12:34+01:02:03:04", "12:3４+01"] {
            assert_eq!(timetz_from_text(bad), Err(ValueError::Unreadable), "{bad:?}");
        }
        assert_eq!(timetz_from_text("24:00:01+00"), Err(ValueError::OutOfRange));
        assert_eq!(timetz_from_text("12:00:00+16"), Err(ValueError::OutOfRange));
        assert_eq!(put_bits(&mut Vec::new(), "012", None, None), Err(ValueError::Unreadable));
        assert_eq!(put_bits(&mut Vec::new(), "01", Some(3), None), Err(ValueError::Bits { bits: 2, limit: 3 }));
        assert_eq!(single_byte_from_text("ab"), Err(ValueError::Unreadable));
        assert_eq!(single_byte_from_text("\\400"), Err(ValueError::Unreadable));
    }

    proptest! {
        /// What was read from the wire is written back as the same bytes.
        #[test]
        fn both_directions_agree(bytes in any::<[u8; 16]>(), bits in 0_u8..=128, count in 0_usize..40, micros in 0..=TIME_MAX_US, west in -57_599_i32..57_600) {
            for (field, is_cidr) in [
                ([&[2, bits % 33, 0, 4], &bytes[..4]].concat(), false),
                ([&[3, bits, 0, 16], &bytes[..]].concat(), false),
                ([&[3, 128, 1, 16], &bytes[..]].concat(), true),
            ] {
                let text = text(if is_cidr { cidr_text } else { inet_text }, &field);
                let mut out = Vec::new();
                put_address(&mut out, &text, is_cidr).unwrap();
                prop_assert_eq!(out, field, "{}", text);
            }
            let mut out = Vec::new();
            put_macaddr::<6>(&mut out, &text(macaddr_text::<6>, &bytes[..6])).unwrap();
            put_macaddr::<8>(&mut out, &text(macaddr_text::<8>, &bytes[..8])).unwrap();
            prop_assert_eq!(out, [&bytes[..6], &bytes[..8]].concat());
            let ones: String = (0..count).map(|index| if bytes[index % 16] & 1 == 1 { '1' } else { '0' }).collect();
            let mut out = Vec::new();
            put_bits(&mut out, &ones, None, None).unwrap();
            prop_assert_eq!(text(bits_text, &out), ones);
            let field = [&micros.to_be_bytes()[..], &west.to_be_bytes()].concat();
            prop_assert_eq!(timetz_from_text(&text(timetz_text, &field)), Ok((micros, west)));
            prop_assert_eq!(single_byte_from_text(&text(single_byte_text, &bytes[..1])), Ok(bytes[0]));
        }
    }
}
