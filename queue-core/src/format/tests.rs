use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::*;

const ALL: [Format; 3] = [Format::Json, Format::MessagePack, Format::Cbor];
const BINARY: [Format; 2] = [Format::MessagePack, Format::Cbor];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: String,
    amount: f64,
    lines: Vec<(u32, i64)>,
    note: Option<String>,
    kind: Kind,
    address: Ipv4Addr,
    labels: BTreeMap<u16, bool>,
    blob: Blob,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kind {
    Plain,
    Express(u8),
    Gift { wrap: bool },
}

/// What `serde_bytes` makes of bytes.
#[derive(Debug, Clone, PartialEq)]
struct Blob(Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> serde::de::Visitor<'de> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Blob, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = items.next_element()? {
                    bytes.push(byte);
                }
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

fn order() -> Order {
    Order {
        id: "ünïcode".into(),
        amount: 12.5,
        lines: vec![(1, -1), (u32::MAX, i64::MIN)],
        note: None,
        kind: Kind::Gift { wrap: true },
        address: Ipv4Addr::LOCALHOST,
        labels: [(7, true)].into(),
        blob: Blob(vec![0, 255]),
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Price {
    price: f64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Nothing {}

#[test]
fn content_type_says_the_format() {
    let of = |text: &str| Format::of(Some(text));

    assert_eq!(Format::of(None), Ok(Format::Json));
    for format in ALL {
        assert_eq!(of(format.content_type()), Ok(format));
    }
    for json in
        ["", "Application/JSON", "application/json; charset=utf-8", "text/plain", "application/problem+json"]
    {
        assert_eq!(of(json), Ok(Format::Json), "{json}");
    }
    for msgpack in ["application/x-msgpack", "application/vnd.msgpack", " application/msgpack;v=5"] {
        assert_eq!(of(msgpack), Ok(Format::MessagePack), "{msgpack}");
    }
    assert_eq!(of("application/senml+cbor"), Ok(Format::Cbor));
}

#[test]
fn unknown_content_type_is_named_beside_those_that_are_known() {
    for unknown in ["text/csv", "application/x-python-serialize", "+json", "é+jsön", "json"] {
        let words = Format::of(Some(unknown)).unwrap_err().to_string();
        assert_eq!(
            words,
            format!(
                "its content type `{unknown}` is not understood; send `application/json`, `application/msgpack` or \
                 `application/cbor`, or leave it out for JSON"
            )
        );
    }
}

#[test]
fn every_format_carries_a_payload_there_and_back() {
    for kind in [Kind::Plain, Kind::Express(3), Kind::Gift { wrap: false }] {
        let order = Order { kind, ..order() };
        for format in ALL {
            let body = format.encode(&order).unwrap();
            assert_eq!(format.decode::<Order>(&body).unwrap(), order, "{format:?}");
        }
    }
}

#[test]
fn every_format_carries_what_json_would() {
    let json = serde_json::to_value(order()).unwrap();

    for format in ALL {
        assert_eq!(format.to_json(&format.encode(&order()).unwrap()).unwrap(), json, "{format:?}");
    }
}

#[test]
fn fields_are_named_as_other_programs_expect() {
    // What Python's `msgpack.packb` and `cbor2.dumps` make of {"price": 10}.
    let msgpack = b"\x81\xa5price\x0a";
    let cbor = b"\xa1\x65price\x0a";

    assert_eq!(Format::MessagePack.encode(&json!({"price": 10})).unwrap(), msgpack);
    assert_eq!(Format::Cbor.encode(&json!({"price": 10})).unwrap(), cbor);
    // A float that happens to be whole is a whole number in JavaScript.
    assert_eq!(Format::MessagePack.decode::<Price>(msgpack).unwrap(), Price { price: 10.0 });
    assert_eq!(Format::Cbor.decode::<Price>(cbor).unwrap(), Price { price: 10.0 });
}

#[test]
fn cbor_may_be_tagged_and_of_unknown_length() {
    let price = Price { price: 1.5 };

    // Self-described, a map of unknown length, a half float below a tag of no meaning.
    let body = b"\xd9\xd9\xf7\xbf\x65price\xc6\xf9\x3e\x00\xff";

    assert_eq!(Format::Cbor.decode::<Price>(body).unwrap(), price);
}

#[test]
fn unknown_fields_are_ignored_and_options_may_be_missing() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Newer {
        price: f64,
        note: Option<String>,
    }

    for format in ALL {
        let body = format.encode(&json!({"price": 2.0, "colour": ["red"]})).unwrap();
        assert_eq!(format.decode::<Newer>(&body).unwrap(), Newer { price: 2.0, note: None }, "{format:?}");
    }
}

#[test]
fn what_is_no_object_is_refused() {
    for format in ALL {
        for body in [json!([]), json!([10.0]), json!(10.0), json!("{}"), json!(null)] {
            let body = format.encode(&body).unwrap();
            assert!(matches!(format.decode::<Price>(&body), Err(DecodeError::NotAnObject(_))), "{format:?}");
            assert!(
                matches!(format.decode::<Nothing>(&body), Err(DecodeError::NotAnObject(_))),
                "{format:?}"
            );
        }
        assert!(format.decode::<Nothing>(b"").is_err(), "{format:?}");
    }
}

#[test]
fn what_follows_the_object_is_refused() {
    for format in ALL {
        let mut body = format.encode(&json!({"price": 1.0})).unwrap();
        body.extend(format.encode(&1).unwrap());
        assert!(matches!(format.decode::<Price>(&body), Err(DecodeError::Misfit(_))), "{format:?}");
        assert!(format.to_json(&body).is_err(), "{format:?}");
    }
}

#[test]
fn half_a_body_is_refused() {
    for format in ALL {
        let body = format.encode(&order()).unwrap();
        for end in 0..body.len() {
            assert!(format.decode::<Order>(&body[..end]).is_err(), "{format:?} to {end}");
        }
    }
}

#[test]
fn deep_nesting_is_refused_and_ends_no_thread() {
    let nested = |head: &[u8], one: &[u8]| [head, &one.repeat(100_000)].concat();
    let bodies = [
        (Format::Json, nested(b"{\"x\":", b"[")),
        (Format::MessagePack, nested(b"\x81\xa1x", b"\x91")),
        (Format::MessagePack, nested(b"\x81\xa1x", b"\x81\xa1x")),
        (Format::Cbor, nested(b"\xa1\x61x", b"\x81")),
        (Format::Cbor, nested(b"\xa1\x61x", b"\xc6")),
        (Format::Cbor, nested(b"", b"\xc6")),
    ];

    for (format, body) in bodies {
        assert!(format.decode::<Nothing>(&body).is_err(), "{format:?}");
        assert!(format.to_json(&body).is_err(), "{format:?}");
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Chain {
    Newtype(Box<Chain>),
    Tuple(Box<Chain>, u8),
    Struct { next: Box<Chain> },
    End,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Links {
    chain: Chain,
}

/// rmp-serde counts no levels of enums.
#[test]
fn deep_enums_are_refused_and_end_no_thread() {
    let head = b"\x81\xa5chain";
    let levels = [
        (Format::Json, b"{\"chain\":".to_vec(), b"{\"Newtype\":".to_vec()),
        (Format::MessagePack, head.to_vec(), b"\x81\xa7Newtype".to_vec()),
        // By the variant's number.
        (Format::MessagePack, head.to_vec(), b"\x81\x00".to_vec()),
        (Format::Cbor, b"\xa1\x65chain".to_vec(), b"\xa1\x67Newtype".to_vec()),
    ];

    for (format, head, level) in levels {
        let body = [head, level.repeat(200_000)].concat();
        assert!(format.decode::<Links>(&body).is_err(), "{format:?}");
    }
}

/// A list, an option of a struct, and an enum in each of its forms, so many levels deep.
fn nested(levels: usize) -> [(Value, Links); 4] {
    let list = (0..levels).fold(json!(1), |inner, _| json!([inner]));
    let object = (0..levels).fold(json!(null), |inner, _| json!({ "next": inner }));
    let chain = |link: fn(Box<Chain>) -> Chain| Links {
        chain: (0..levels).fold(Chain::End, |inner, _| link(Box::new(inner))),
    };
    [
        (json!({ "list": list }), chain(Chain::Newtype)),
        (json!({ "object": object }), chain(|inner| Chain::Tuple(inner, 1))),
        (json!({}), chain(|next| Chain::Struct { next })),
        (json!({ "both": [{ "list": list }] }), chain(Chain::Newtype)),
    ]
}

#[test]
fn nesting_is_written_as_deep_as_it_can_be_read_and_no_deeper() {
    for format in ALL {
        let mut deepest = [0; 4];
        for levels in 1..200 {
            for (at, (value, links)) in nested(levels).into_iter().enumerate() {
                if let Ok(body) = format.encode(&value) {
                    assert_eq!(format.to_json(&body).unwrap(), value, "{format:?}");
                    assert_eq!(format.decode::<Value>(&body).unwrap(), value, "{format:?}");
                }
                if let Ok(body) = format.encode(&links) {
                    assert_eq!(format.decode::<Links>(&body).unwrap(), links, "{format:?}");
                    deepest[at] = levels;
                }
            }
        }
        assert_eq!(deepest, [126, 63, 63, 126], "{format:?}");
    }
}

#[test]
fn nesting_that_nobody_reads_is_refused_by_its_field() {
    let [(list, _), (object, _), ..] = nested(127);

    for format in ALL {
        let refusal = |value| format.encode(value).unwrap_err().to_string();
        let says = "is nested more than 127 deep, deeper than any reader goes: flatten it, or store it elsewhere and send its \
                    address";
        let words = refusal(&list);
        assert!(words.starts_with("field `list[0][0]") && words.ends_with(&format!("…` {says}")), "{words}");
        assert!(refusal(&object).starts_with("field `object.next.next."), "{format:?}");
        // However deep: a list of this kind overflows a stack when it is written.
        assert!(refusal(&list).len() < 400);
    }
}

#[test]
fn floats_that_are_no_numbers_are_refused_by_their_field() {
    #[derive(Serialize)]
    struct Wrapped(f64);
    #[derive(Serialize)]
    enum Price {
        Of(f32),
        Both(f64, f64),
        Range { from: f64 },
    }
    #[derive(Serialize)]
    struct Everywhere {
        plain: f64,
        maybe: Option<f64>,
        list: Vec<Option<f32>>,
        pair: (u8, Wrapped),
        rates: BTreeMap<String, Vec<f64>>,
        numbered: BTreeMap<u16, f64>,
        prices: Vec<Price>,
    }
    let plain = || Everywhere {
        plain: 1.0,
        maybe: None,
        list: vec![],
        pair: (1, Wrapped(2.0)),
        rates: BTreeMap::new(),
        numbered: BTreeMap::new(),
        prices: vec![],
    };
    let none = f64::NAN;
    let cases = [
        (Everywhere { plain: none, ..plain() }, "plain", "NaN"),
        (Everywhere { plain: f64::INFINITY, ..plain() }, "plain", "inf"),
        (Everywhere { plain: f64::NEG_INFINITY, ..plain() }, "plain", "-inf"),
        (Everywhere { maybe: Some(none), ..plain() }, "maybe", "NaN"),
        (Everywhere { list: vec![None, Some(f32::NAN)], ..plain() }, "list[1]", "NaN"),
        (Everywhere { pair: (1, Wrapped(none)), ..plain() }, "pair[1]", "NaN"),
        (Everywhere { rates: [("eu".into(), vec![1.0, none])].into(), ..plain() }, "rates.eu[1]", "NaN"),
        (Everywhere { numbered: [(7, none)].into(), ..plain() }, "numbered.7", "NaN"),
        (Everywhere { prices: vec![Price::Of(f32::INFINITY)], ..plain() }, "prices[0]", "inf"),
        (Everywhere { prices: vec![Price::Both(0.0, none)], ..plain() }, "prices[0][1]", "NaN"),
        (Everywhere { prices: vec![Price::Range { from: none }], ..plain() }, "prices[0].from", "NaN"),
    ];

    for format in ALL {
        assert!(format.encode(&plain()).is_ok(), "{format:?}");
        for (value, field, number) in &cases {
            assert_eq!(
                format.encode(value).unwrap_err().to_string(),
                format!(
                    "field `{field}` is {number}, and a payload has finite numbers only: send an `Option`, or a text"
                )
            );
        }
        assert_eq!(
            format.encode(&none).unwrap_err().to_string(),
            "it is NaN, and a payload has finite numbers only: send an `Option`, or a text"
        );
    }
}

/// A float as a key: a text in JSON, a number in the others.
#[test]
fn key_that_is_no_number_is_refused_by_its_map() {
    struct Rates;
    impl Serialize for Rates {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map([(f64::NAN, 1)])
        }
    }

    for format in ALL {
        let words = format.encode(&BTreeMap::from([("rates", Rates)])).unwrap_err().to_string();
        assert!(words.starts_with("field `rates` is NaN"), "{format:?}: {words}");
    }
}

#[test]
fn what_serde_refuses_is_named_by_its_field() {
    #[derive(Serialize)]
    struct Labelled {
        labels: BTreeMap<Vec<u8>, u8>,
    }

    let words = Format::Json.encode(&Labelled { labels: [(vec![1], 1)].into() }).unwrap_err().to_string();

    assert_eq!(words, "field `labels`: key must be a string");
}

/// The table in the documentation of `#[task]`.
#[test]
fn types_that_do_not_read_what_they_write_are_those_of_the_documentation() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Twice {
        maybe: Option<Option<u8>>,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Big { number: u128 },
        Map { map: BTreeMap<u64, u8> },
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Skipped {
        #[serde(skip_serializing)]
        secret: u8,
    }

    for format in ALL {
        let body = format.encode(&Twice { maybe: Some(None) }).unwrap();
        assert_eq!(format.decode::<Twice>(&body).unwrap(), Twice { maybe: None }, "{format:?}");
        let body = format.encode(&Tagged::Big { number: u128::MAX }).unwrap();
        assert!(format.decode::<Tagged>(&body).is_err(), "{format:?}");
        let body = format.encode(&Skipped { secret: 1 }).unwrap();
        assert!(format.decode::<Skipped>(&body).is_err(), "{format:?}");
    }
    let body = Format::Json.encode(&Tagged::Map { map: [(1, 1)].into() }).unwrap();
    assert!(Format::Json.decode::<Tagged>(&body).is_err());
}

#[test]
fn json_may_begin_with_a_byte_order_mark() {
    let body = "\u{feff}{\"price\": 2.0}".as_bytes();

    assert_eq!(Format::Json.decode::<Price>(body).unwrap(), Price { price: 2.0 });
    assert_eq!(Format::Json.decode_value::<Price>(body).unwrap(), Price { price: 2.0 });
    assert_eq!(Format::Json.to_json(body).unwrap(), json!({"price": 2.0}));
}

#[test]
fn sizes_that_are_not_there_are_refused_without_making_room() {
    for (format, body) in [
        (Format::MessagePack, &b"\x81\xa1x\xdd\xff\xff\xff\xff"[..]),
        (Format::MessagePack, b"\xdf\xff\xff\xff\xff"),
        (Format::MessagePack, b"\x81\xa1x\xc6\xff\xff\xff\xff"),
        (Format::Cbor, b"\xa1\x61x\x9b\x7f\xff\xff\xff\xff\xff\xff\xff"),
        (Format::Cbor, b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff"),
        (Format::Cbor, b"\xa1\x61x\x5b\x7f\xff\xff\xff\xff\xff\xff\xff"),
    ] {
        assert!(format.decode::<Nothing>(body).is_err(), "{format:?}");
    }
}

#[test]
fn uuids_are_text_or_bytes() {
    #[derive(Debug, Deserialize)]
    struct Named {
        id: Text,
    }
    /// Reads text alone, as most types that are text in JSON do.
    #[derive(Debug)]
    struct Text(String);
    impl<'de> Deserialize<'de> for Text {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            assert!(deserializer.is_human_readable());
            String::deserialize(deserializer).map(Self)
        }
    }
    let id = Uuid::nil().to_string();

    for format in ALL {
        let body = format.encode(&json!({"id": id})).unwrap();
        assert_eq!(format.decode::<Named>(&body).unwrap().id.0, id);
    }
}

#[test]
fn refusals_are_in_words() {
    let words = |format: Format, body: &[u8]| format.decode::<Price>(body).unwrap_err().to_string();

    let deep = [&b"\x81\xa1x"[..], &[0x91; 200]].concat();
    assert_eq!(words(Format::MessagePack, &deep), "it is nested more than 127 deep");
    let deep = [&b"\xa1\x61x"[..], &[0x81; 200]].concat();
    assert_eq!(words(Format::Cbor, &deep), "it is nested more than 127 deep");
    assert_eq!(words(Format::MessagePack, b"\x81\xa5pri"), "it ends too early");
    assert_eq!(words(Format::Cbor, b"\xa1\x65pri"), "it ends too early");
    assert_eq!(words(Format::Cbor, b"\xa1\x1f"), "it is no CBOR at byte 1");
    assert_eq!(words(Format::Json, b"\x81"), "not a JSON object");
    for (format, body) in
        [(Format::MessagePack, &b"\x81\xa5price\xa1x"[..]), (Format::Cbor, b"\xa1\x65price\x61x")]
    {
        assert_eq!(words(format, body), "invalid type: string \"x\", expected f64");
    }
}

#[test]
fn binary_formats_may_name_fields_by_number_and_by_bytes() {
    for body in [&b"\x81\x00\x0a"[..], b"\x81\xcc\x00\x0a", b"\x81\xc4\x05price\x0a"] {
        assert_eq!(Format::MessagePack.decode::<Price>(body).unwrap(), Price { price: 10.0 });
    }
    assert_eq!(Format::Cbor.decode::<Price>(b"\xa1\x00\x0a").unwrap(), Price { price: 10.0 });
    assert_eq!(Format::Cbor.decode::<Price>(b"\xa1\x45price\x0a").unwrap(), Price { price: 10.0 });
}

#[test]
fn binary_formats_carry_what_json_cannot() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Numbers {
        big: u128,
        small: i128,
        maybe: Option<u128>,
        rates: BTreeMap<u64, bool>,
    }
    let numbers =
        Numbers { big: u128::MAX, small: i128::MIN, maybe: Some(1 << 100), rates: [(u64::MAX, true)].into() };

    for format in ALL {
        assert_eq!(
            format.decode::<Numbers>(&format.encode(&numbers).unwrap()).unwrap(),
            numbers,
            "{format:?}"
        );
    }
    // Infinity, as other programs write it.
    let infinite = Price { price: f64::INFINITY };
    assert_eq!(
        Format::MessagePack.decode::<Price>(b"\x81\xa5price\xcb\x7f\xf0\0\0\0\0\0\0").unwrap(),
        infinite
    );
    assert_eq!(Format::Cbor.decode::<Price>(b"\xa1\x65price\xf9\x7c\x00").unwrap(), infinite);
}

/// A payload that is no struct to serde is read by the format's own deserializer.
#[test]
fn payloads_may_be_enums_wrappers_and_flat() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Either {
        Left { price: f64 },
        Right(u8),
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Wrapper(Price);
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Sale { price: f64 },
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Flat {
        name: String,
        #[serde(flatten)]
        price: Price,
    }
    fn comes_back<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: T) {
        for format in ALL {
            assert_eq!(format.decode::<T>(&format.encode(&value).unwrap()).unwrap(), value, "{format:?}");
        }
    }

    comes_back(Either::Left { price: 1.0 });
    comes_back(Either::Right(7));
    comes_back(Wrapper(Price { price: 1.0 }));
    comes_back(Tagged::Sale { price: 1.0 });
    comes_back(Flat { name: "x".into(), price: Price { price: 1.0 } });
    comes_back(Some(Price { price: 1.0 }));
    comes_back(BTreeMap::from([("x".to_owned(), 1)]));
    comes_back(json!({"x": [1, {"y": null}]}));
}

/// Code that is written by hand may ask for its keys as it likes.
#[test]
fn keys_may_be_text_names_and_enums() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Name(String);
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Field {
        Price,
    }
    #[derive(Debug, PartialEq)]
    struct ByHand<K>(K, f64);

    struct OneEntry<K>(std::marker::PhantomData<K>);

    impl<'de, K: Deserialize<'de>> serde::de::Visitor<'de> for OneEntry<K> {
        type Value = ByHand<K>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one entry")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<ByHand<K>, A::Error> {
            let (key, price) = map.next_entry()?.expect("an entry");
            Ok(ByHand(key, price))
        }
    }

    impl<'de, K: Deserialize<'de>> Deserialize<'de> for ByHand<K> {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_struct("ByHand", &["price"], OneEntry(std::marker::PhantomData))
        }
    }

    for format in ALL {
        let body = format.encode(&Price { price: 1.0 }).unwrap();
        assert_eq!(format.decode(&body).ok(), Some(ByHand("price".to_owned(), 1.0)), "{format:?}");
        assert_eq!(format.decode(&body).ok(), Some(ByHand(Name("price".into()), 1.0)), "{format:?}");
        assert_eq!(format.decode(&body).ok(), Some(ByHand(Some("price".to_owned()), 1.0)), "{format:?}");
        assert_eq!(format.decode(&body).ok(), Some(ByHand(Field::Price, 1.0)), "{format:?}");
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    name: String,
    price: Option<f64>,
    kind: Kind,
}

fn strict() -> Strict {
    Strict { name: "a \"b\" \u{1f600}".into(), price: Some(1.5), kind: Kind::Gift { wrap: false } }
}

/// What serde_json would say, and of which place.
fn by_serde_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn by_us<T: DeserializeOwned>(format: Format, body: &[u8]) -> Result<T, String> {
    format.decode(body).map_err(|error| error.to_string())
}

#[test]
fn json_is_refused_in_serde_jsons_words_and_at_its_place() {
    for body in [
        "{",
        "{ ",
        "{}",
        "{\n}",
        "{,}",
        "{1:1}",
        "{\"name\"",
        "{\"name\" ",
        "{\"name\":",
        "{\"name\" 1}",
        "{\"name\":}",
        "{\"name\":\n\n  7}",
        "{\n\"name\": \"x\",\n}",
        "{\"name\":\"x\" \"kind\"}",
        "{\"name\":\"x\",",
        "{\"name\":\"x\",1}",
        "{\"name\":\"x\",\"name\":\"y\"}",
        "{\"nam\":\"x\"\n}",
        "{\"name\":\"x\"} ",
        "{\"name\":\"x\"} x",
        "{\"name\":\"x\",\"kind\":\"Plain\"} \nx",
        "{\"name\":\"x\",\"kind\":\"Plain\"]",
        "{\"kind\":\"Plai\"}",
        "{\"n\\u0061me\":\"x\",\"kind\":\"Plain\"}",
        "{\"n\\uD800\":1}",
        "{\"n\n\":1}",
        "{\"name",
        "{\"name\":\"x",
        "{\"price\":1e999}",
        "{\"kind\":{\"Gift\":{\"wrap\":\n1}}}",
        "\n {\"price\":\n[}",
    ] {
        let body = body.as_bytes();
        assert_eq!(by_us::<Strict>(Format::Json, body), by_serde_json(body), "{}", body.escape_ascii());
        assert_eq!(by_us::<Price>(Format::Json, body), by_serde_json(body), "{}", body.escape_ascii());
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..40).prop_map(Value::from),
            prop::collection::btree_map(".{0,20}", inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn binary_formats_lose_nothing_that_json_says(value in any_json()) {
        for format in BINARY {
            prop_assert_eq!(format.to_json(&format.encode(&value).unwrap()).unwrap(), value.clone());
        }
    }

    #[test]
    fn damaged_json_is_read_or_refused_as_by_serde_json(
        at in any::<prop::sample::Index>(),
        cut in 0..3_usize,
        put in "[{}\\[\\]\",:\\\\ \n1naé-]{0,2}",
    ) {
        let mut body = serde_json::to_vec_pretty(&strict()).unwrap();
        let at = 1 + at.index(body.len() - 1);
        body.splice(at..(at + cut).min(body.len()), put.bytes());
        prop_assert_eq!(by_us::<Strict>(Format::Json, &body), by_serde_json(&body));
        prop_assert_eq!(by_us::<Price>(Format::Json, &body), by_serde_json(&body));
    }

    #[test]
    fn damaged_message_pack_is_read_as_by_its_crate(
        at in any::<prop::sample::Index>(),
        cut in 0..3_usize,
        put in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let mut body = Format::MessagePack.encode(&strict()).unwrap();
        let at = 1 + at.index(body.len() - 1);
        body.splice(at..(at + cut).min(body.len()), put);
        prop_assert_eq!(by_us::<Strict>(Format::MessagePack, &body).ok(), message_pack::decode(&body).ok());
        prop_assert_eq!(by_us::<Price>(Format::MessagePack, &body).ok(), message_pack::decode(&body).ok());
    }

    #[test]
    fn any_bytes_are_a_value_or_an_error(body in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in ALL {
            let _ = format.decode::<Order>(&body);
            let _ = format.to_json(&body);
        }
    }
}
