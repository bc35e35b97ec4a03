//! Breaks a good message in one of the ways devices and networks do. The fleet's tables reject every one of them.

use crate::simulate::random::Random;

/// Fields that both kinds of breakable message have (kinematic and ignition), and one value of each to spoil.
const NUMBER_OR_BOOLEAN: [&str; 2] = ["\"speed\":", "\"is_on\":"];

pub fn malformed(good: &str, random: &mut Random) -> Vec<u8> {
    match random.range(0, 5) {
        0 => good.as_bytes()[..random.range(1, good.len() as i64) as usize].to_vec(),
        1 => with_value(good, "\"vehicle_id\":", &random.range(0, 1_000_000).to_string()),
        2 => with_value(good, "\"vehicle_id\":", "null"),
        3 => {
            let field = NUMBER_OR_BOOLEAN.iter().find(|field| good.contains(**field));
            with_value(good, field.expect("a message to be broken has one of the fields"), "\"n/a\"")
        }
        _ => garbage(random),
    }
}

/// Replaces the first value of a field; the value holds no comma or bracket.
fn with_value(good: &str, field: &str, value: &str) -> Vec<u8> {
    let from = good.find(field).expect("the field is in the message") + field.len();
    let to = from + good[from..].find([',', '}']).expect("a value ends");
    [&good[..from], value, &good[to..]].concat().into_bytes()
}

/// Never valid UTF-8, and without line ends, so that it is one line of a file.
fn garbage(random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0xff];
    for _ in 0..random.range(8, 64) {
        bytes.push(random.range(0x20, 0x100) as u8);
    }
    bytes
}
