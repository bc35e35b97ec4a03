//! JSONTestSuite against the decoder: every valid text is accepted, every invalid one rejected, and none panics. The
//! files are not part of this repository; without them built-in cases of the same kinds run.

use crate::codec::json::{JsonDecoder, JsonOptions, check_value};
use crate::codec::tests::{column, message, table};
use crate::types::table::ColumnType;
use std::path::Path;
use std::sync::Arc;

/// y: must be accepted, n: must be rejected, i: either.
const BUILT_IN: &[(&str, &[u8])] = &[
    ("n empty", b""),
    ("n white space", b" \t\n"),
    ("n byte order mark", b"\xef\xbb\xbf{}"),
    ("n leading zero", b"[01]"),
    ("n plus sign", b"[+1]"),
    ("n no digit before point", b"[.5]"),
    ("n no digit after point", b"[1.]"),
    ("n no exponent digits", b"[1e]"),
    ("n minus alone", b"[-]"),
    ("n hexadecimal", b"[0x1F]"),
    ("n NaN", b"[NaN]"),
    ("n Infinity", b"[-Infinity]"),
    ("n full-width digit", "[１]".as_bytes()),
    ("n trailing comma in array", b"[1,]"),
    ("n trailing comma in object", b"{\"a\":1,}"),
    ("n double comma", b"[1,,2]"),
    ("n comma after close", b"[1],"),
    ("n missing comma", b"[1 2]"),
    ("n missing colon", b"{\"a\" 1}"),
    ("n key without quotes", b"{a:1}"),
    ("n key in single quotes", b"{'a':1}"),
    ("n number as key", b"{1:1}"),
    ("n unclosed array", b"[1"),
    ("n unclosed object", b"{\"a\":1"),
    ("n unclosed string", b"[\"a"),
    ("n close without open", b"1]"),
    ("n wrong close", b"[1}"),
    ("n two values", b"{} {}"),
    ("n half a literal", b"[tru]"),
    ("n literal in capitals", b"[TRUE]"),
    ("n comment", b"{\"a\":1}/**/"),
    ("n bad escape", b"[\"\\x\"]"),
    ("n half a unicode escape", b"[\"\\u00\"]"),
    ("n line feed in string", b"[\"a\nb\"]"),
    ("n tab in string", b"[\"\t\"]"),
    ("n NUL in string", b"[\"a\0\"]"),
    ("n form feed as white space", b"[\x0c]"),
    ("n no-break space", "[\u{a0}1]".as_bytes()),
    ("y empty object", b"{}"),
    ("y nested", b"{\"a\":[{\"b\":[[]]}]}"),
    ("y numbers", b"[0,-0,1.5e+10,1E-2,123456789012345678901234567890]"),
    ("y escapes", b"[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"]"),
    ("y white space everywhere", b" { \"a\" : [ 1 , 2 ] , \"b\" : null } \n"),
    ("y delete character", b"[\"\x7f\"]"),
    ("y duplicate keys of a value nobody declares", b"[{\"a\":1,\"a\":2}]"),
    ("y scalar", b"\"text\""),
    ("i lone surrogate", b"[\"\\ud800\"]"),
    ("i huge exponent", b"[1e99999]"),
    ("i invalid UTF-8", b"[\"\xff\"]"),
];

fn check(name: &str, text: &[u8], decoder: &mut JsonDecoder) {
    // As a whole message: one object, or set aside for being none; what is no JSON is always set aside.
    decoder.push(&[message(text)], 0);
    let as_message = decoder.finish();
    // As the value of a field kept as JSON text: the path that a message's own values take.
    let wrapped = [b"{\"v\":", text, b"}"].concat();
    decoder.push(&[message(&wrapped)], 0);
    let as_value = decoder.finish();
    let rejected = !as_value.rejects.is_empty();
    match name.as_bytes()[0] {
        b'y' => {
            let reasons: Vec<String> = as_message.rejects.iter().map(|r| r.reason.to_string()).collect();
            let no_object = reasons.iter().all(|r| r.contains("a message is one JSON object"));
            assert!(no_object, "{name} was rejected as malformed: {reasons:?}");
            assert!(!rejected, "{name} inside a message was rejected: {}", as_value.rejects[0].reason);
            assert!(check_value(text).is_ok(), "{name}");
        }
        b'n' => {
            assert_eq!(as_message.rejects.len(), 1, "{name} was accepted");
            assert!(rejected, "{name} was accepted inside a message");
        }
        _ => {}
    }
    assert_eq!(as_message.tables.len() + as_message.rejects.len(), 1, "{name}");
}

#[test]
fn json_test_suite() {
    let columns = vec![column("v", ColumnType::Json)];
    let mut decoder = JsonDecoder::new(vec![Arc::new(table("t", columns))], JsonOptions::default());
    for (name, text) in BUILT_IN {
        check(name, text, &mut decoder);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/JSONTestSuite/test_parsing");
    let Ok(listing) = std::fs::read_dir(&folder) else {
        println!("JSONTestSuite: absent, {} built-in cases ran instead", BUILT_IN.len());
        return;
    };
    let mut files = 0;
    for entry in listing {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().expect("a file name").to_string_lossy().into_owned();
        check(&name, &std::fs::read(&path).expect("a readable file"), &mut decoder);
        files += 1;
    }
    assert_eq!(files, 318, "{} is not the whole suite", folder.display());
    println!("JSONTestSuite: {files} files");
}
