//! `import`: counts every row of a valid file once however often it is imported, and no row of an
//! invalid file.

use std::io::Write;

use crate::common::set_up;
use like_testkit::{TestSystem, event};
use tempfile::NamedTempFile;

fn file(text: impl AsRef<[u8]>) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_ref()).unwrap();
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

/// Imports a valid file; returns its number of rows.
async fn imported(system: &TestSystem, file: &NamedTempFile) -> i64 {
    let (status, result) = system.json(&["import", path(file)]).await;
    assert_eq!(status, 0, "{result}");
    result["rows"].as_i64().unwrap()
}

#[tokio::test]
async fn repeated_import_counts_once() {
    let (topic, system) = set_up(4).await;
    let aggregator = system.aggregator(&[]).await;
    // As a spreadsheet writes it: a byte order mark, column names, CRLF, quotes.
    let likes = file("\u{feff}Product ID,user-id\r\np1,u1\r\np1,\"auth0|a,b\"\"c\"\r\n\r\np2,u1\r\np1,u1\r\n");
    assert_eq!(imported(&system, &likes).await, 4);
    system.folded(4).await;
    assert_eq!(system.likes().await, 3);
    let quoted = r#"SELECT count(*) FROM product_like WHERE liked AND (product_id, user_id) = ('p1', 'auth0|a,b"c')"#;
    assert_eq!(system.number(quoted).await, 1);

    topic.publish_event(&event("p2", Some("u1"), false));
    topic.flush();
    system.folded(5).await;
    let printed = system.succeeds(&["import", path(&likes)]).await;
    assert!(printed.contains("import before opening"), "{printed}");
    // The same rows without column names and without a newline at the end.
    let three = file("p1,u1\np2,u1\np2,u1");
    let (_, result) = system.json(&["import", path(&three), "--rate", "1"]).await;
    assert!(result["rows"] == 3 && result["seconds"].as_f64() >= Some(2.0), "{result}");
    system.folded(12).await;
    assert_eq!(system.likes().await, 2, "a repeat doesn't restore an unliked row");
    assert_eq!(aggregator.metric("likes_events_total", r#"outcome="duplicate""#).await as u32, 8);
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test]
async fn bad_row_is_named_by_its_line() {
    let (topic, system) = set_up(4).await;
    let long = format!("p,{}", "u".repeat(256));
    let cases: [(&[u8], &[&str]); 11] = [
        (b"p1,u1\r\n\r\n\r\np1,u1\r\np 2,u1\r\n\r\np3,\r\n", &["line 5 has product_id 'p 2'", "line 7 has user_id"]),
        (b"p1,u1\np 2,u1\n", &["line 2 has product_id 'p 2', which must be 1 to 128 characters of A-Z"]),
        (b"product_id,user_id\np1,\n", &["line 2 has user_id '', which must be 1 to 255"]),
        (b"p1,u1\n\xff,u1\n", &["line 2 has product_id"]),
        (b"p1,u1\np1,\x1b[2J\n", &["line 2 has user_id '\\u{1b}[2J'"]),
        (long.as_bytes(), &["line 1 has user_id 'uuu"]),
        (b"p1,u1\np1\n\np1,u1,x\n", &["line 2 has 1 fields", "line 4 has 3 fields", "quotes"]),
        (b"p1,u1\np1;u2\n", &["line 2 has 1 fields, expected product_id,user_id"]),
        (b"p1,u1\nproduct_id,user_id\np2,u2\n", &["line 2 names the columns product_id,user_id"]),
        (b"userId,productId\nu1,p1\n", &["line 1 names the columns userId,productId: swap them"]),
        (b"p,\np,\np,\np,\np,\np,\np,\n", &["line 5 has", "and 2 more", "nothing was published"]),
    ];
    for (text, texts) in cases {
        let file = file(text);
        system.refused(&["import", path(&file)], &[&[path(&file), "nothing was published"], texts].concat()).await;
    }
    for (args, why) in [
        (&["import", "/no/such.csv"][..], &["/no/such.csv can't be read"][..]),
        (&["import", "/dev/null"], &["/dev/null is not a file"]),
        (&["import"], &["<FILE>", "is not set"]),
    ] {
        system.refused(args, why).await;
    }
    assert_eq!(topic.end_offsets(), [0; 4]);
}

#[tokio::test]
async fn second_run_completes_an_import() {
    let (topic, system) = set_up(4).await;
    let _aggregator = system.aggregator(&[]).await;
    let likes = file((0..100).map(|n| format!("p{n},u{n}")).collect::<Vec<_>>().join("\n"));
    let stamp = ("message.timestamp.type", "LogAppendTime");
    topic.configure(&[stamp, ("max.message.bytes", "10")]).await;
    let why = ["0 of 100 published events are known to be in the log", "run it again"];
    system.refused(&["import", path(&likes)], &why).await;
    topic.configure(&[stamp, ("max.message.bytes", "1000000")]).await;
    assert_eq!(imported(&system, &likes).await, 100);
    system.likes_become(100).await;
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test]
async fn file_beyond_the_queue_is_imported() {
    let (_topic, system) = set_up(4).await;
    let _aggregator = system.aggregator(&[]).await;
    let likes = file((0..60_000).map(|n| format!("p{},u{n}", n % 7)).collect::<Vec<_>>().join("\n"));
    assert_eq!(imported(&system, &likes).await, 60_000);
    system.folded(60_000).await;
    assert_eq!(system.likes().await, 60_000);
}
