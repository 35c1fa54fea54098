//! The payload: the by-value parameters as a struct, and as JSON.

use leveret::{Context, task};
use serde_json::json;

/// A mail server.
#[derive(Debug)]
struct Mailer;

#[test]
fn by_value_parameters_are_the_keys() {
    #[task(queue = "q")]
    async fn send_email(_mailer: &Mailer, mut to: String, _context: &Context, r#type: u8) {
        to.push('!');
        let _ = r#type;
    }

    let job = SendEmail { to: "ada@example.com".into(), r#type: 1 };

    assert_eq!(serde_json::to_value(&job).unwrap(), json!({"to": "ada@example.com", "type": 1}));
}

#[test]
fn leading_underscore_does_not_change_the_wire() {
    #[allow(clippy::just_underscores_and_digits, reason = "what is left of `_1` would be no name")]
    #[task(queue = "q")]
    async fn unused(_to: String, _type: u8, __deep: u8, _1: u8) {}

    let job = Unused { to: "ada".into(), r#type: 1, deep: 2, _1: 3 };

    assert_eq!(serde_json::to_value(&job).unwrap(), json!({"to": "ada", "type": 1, "deep": 2, "_1": 3}));
}

#[test]
fn serde_attributes_of_parameters_are_passed_on() {
    #[task(queue = "q")]
    async fn upload(#[serde(rename = "fileName")] file: String, #[serde(default)] retries: u8) {
        drop((file, retries));
    }

    let job: Upload = serde_json::from_value(json!({"fileName": "a.txt"})).unwrap();

    assert_eq!((job.file.as_str(), job.retries), ("a.txt", 0));
    assert_eq!(serde_json::to_value(&job).unwrap(), json!({"fileName": "a.txt", "retries": 0}));
}

/// Whatever its digits, and whatever JSON makes of them.
#[test]
fn floats_come_back_to_the_last_bit() {
    #[task(queue = "q")]
    async fn measure(value: f64, single: f32) {
        let _ = (value, single);
    }
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);

    for _ in 0..20_000 {
        let (value, single) = (f64::from_bits(random.u64(..)), f32::from_bits(random.u32(..)));
        if !value.is_finite() || !single.is_finite() {
            continue;
        }
        let sent = serde_json::to_vec(&Measure { value, single }).unwrap();
        let back: Measure = serde_json::from_slice(&sent).unwrap();

        assert_eq!((back.value, back.single), (value, single), "seed {seed}");
    }
}

#[test]
fn debug_shows_the_fields_unless_told_not_to() {
    #[task(queue = "q")]
    async fn open(password: String) {
        drop(password);
    }
    #[task(queue = "q", debug = false)]
    async fn hidden(password: String) {
        drop(password);
    }

    let (open, hidden) = (Open { password: "123".into() }, Hidden { password: "123".into() });

    assert_eq!(format!("{:?}", open.clone()), r#"Open { password: "123" }"#);
    assert_eq!(format!("{:?}", hidden.clone()), "Hidden { .. }");
}

#[tokio::test]
async fn function_stays_callable() {
    #[task(queue = "q")]
    async fn add(a: u32, b: u32) -> Result<u32, std::num::TryFromIntError> {
        Ok(a + b)
    }

    assert_eq!(add(1, 2).await, Ok(3));
}
