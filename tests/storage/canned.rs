//! Stores that answer as no server here does, one canned answer for each request.

use std::sync::{Arc, Mutex};

use pgkeep::storage::{Fault, Prefix, Storage};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::contract::key;
use crate::stores::House;

type Answer = (u16, String);
type Token = Arc<Mutex<String>>;
type AnswerTo = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

const TOKEN: &str = "x-amz-meta-pgkeep-write";

/// A server that answers a request, given as `METHOD target`, by a function, and keeps what it was asked.
struct Canned {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Canned {
    async fn answering(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::new(answer, None).await
    }

    /// A server that tells of every object the token that it was last told.
    async fn keeping_tokens(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::new(answer, Some(Arc::default())).await
    }

    async fn new(answer: impl Fn(&str) -> Answer + Send + Sync + 'static, tokens: Option<Token>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answer, record): (AnswerTo, _) = (Arc::new(answer), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&answer), Arc::clone(&record), tokens.clone()));
            }
        });
        Self { port, asked, serving }
    }

    async fn open(&self) -> Arc<dyn Storage> {
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name.to_owned(), "x".to_owned()));
        House::with(&keys).open(&format!("s3://backups?endpoint=http://127.0.0.1:{}", self.port)).await
    }

    fn asked(&self, method: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.starts_with(method)).count()
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut connection: TcpStream, answer: AnswerTo, asked: Arc<Mutex<Vec<String>>>, kept: Option<Token>) {
    let (reader, mut writer) = connection.split();
    let mut reader = BufReader::new(reader);
    let (mut line, mut first, mut length) = (String::new(), String::new(), 0);
    while reader.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let text = std::mem::take(&mut line).trim_end().to_owned();
        if first.is_empty() {
            first = text.rsplit_once(' ').unwrap().0.to_owned();
        } else if let Some((name, value)) = text.split_once(": ") {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().unwrap();
            }
            if let Some(kept) = kept.as_ref().filter(|_| name.eq_ignore_ascii_case(TOKEN)) {
                *kept.lock().unwrap() = value.to_owned();
            }
        } else if text.is_empty() {
            reader.read_exact(&mut vec![0; std::mem::take(&mut length)]).await.unwrap();
            asked.lock().unwrap().push(first.clone());
            let is_head = first.starts_with("HEAD");
            let (status, body) = answer(&std::mem::take(&mut first));
            let token = kept.as_ref().map(|kept| format!("{TOKEN}: {}\r\n", kept.lock().unwrap()));
            let head = format!(
                "HTTP/1.1 {status} X\r\n{}Content-Type: application/xml\r\nContent-Length: {}\r\n\r\n",
                token.unwrap_or_default(),
                body.len()
            );
            let body = if is_head { "" } else { &body };
            writer.write_all((head + body).as_bytes()).await.unwrap();
        }
    }
}

fn listing(names: &[&str], more: &str) -> Answer {
    let objects: String = names
        .iter()
        .map(|name| format!("<Contents><Key>{name}</Key><Size>1</Size><LastModified>2030-01-01T00:00:00.000Z</LastModified></Contents>"))
        .collect();
    (200, format!("<ListBucketResult>{objects}{more}</ListBucketResult>"))
}

fn refusal(status: u16, code: &str) -> Answer {
    (status, format!("<Error><Code>{code}</Code><Message>because</Message></Error>"))
}

/// What makes a listing incomplete is an error, never a shorter list.
#[tokio::test]
async fn a_listing_that_cannot_be_complete_fails() {
    for (more, said) in [
        ("<IsTruncated>true</IsTruncated>", "does not tell how to go on"),
        ("<IsTruncated>true</IsTruncated><NextContinuationToken>1</NextContinuationToken>", "where it was before"),
        ("", "does not tell whether its list ends"),
    ] {
        let store = Canned::answering(move |_| listing(&["a"], more)).await;
        let error = store.open().await.list(&Prefix::root()).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    // Tokens that go round in a circle.
    let store = Canned::answering(|asked| {
        let next = if asked.contains("continuation-token=1") { 2 } else { 1 };
        let more = format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>");
        listing(&[], &more)
    });
    let error = store.await.open().await.list(&Prefix::root()).await.unwrap_err();
    assert!(error.to_string().contains("where it was before"), "{error}");

    let store = Canned::answering(|asked| {
        let more = match asked.contains("continuation-token") {
            true => "<IsTruncated>false</IsTruncated>",
            false => "<IsTruncated>true</IsTruncated><NextContinuationToken>1</NextContinuationToken>",
        };
        listing(&["a"], more)
    });
    let error = store.await.open().await.list(&Prefix::root()).await.unwrap_err();
    assert!(error.to_string().contains("lists a twice"), "{error}");
}

/// A store that gives a token has more to list, whatever else it leaves out.
#[tokio::test]
async fn a_listing_is_followed_while_there_is_a_token() {
    let store = Canned::answering(|asked| match asked.contains("continuation-token=1") {
        true => listing(&["b"], "<IsTruncated>false</IsTruncated>"),
        false => listing(&["a"], "<NextContinuationToken>1</NextContinuationToken>"),
    });
    let listed = store.await.open().await.list(&Prefix::root()).await.unwrap();
    let names: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[tokio::test]
async fn objects_are_deleted_one_by_one_where_many_at_once_are_refused() {
    let store = Canned::answering(|asked| match asked.split_once(' ').unwrap().0 {
        "GET" => listing(&[], ""),
        "POST" => refusal(501, "NotImplemented"),
        _ => (204, String::new()),
    });
    let store = store.await;
    let storage = store.open().await;
    for _ in 0..2 {
        storage.delete_all(&[key("a"), key("b"), key("c")]).await.unwrap();
    }
    assert_eq!((store.asked("POST"), store.asked("DELETE")), (1, 6));
}

#[tokio::test]
async fn an_object_that_was_not_deleted_is_found_in_an_answer_that_is_a_success() {
    let answer =
        "<DeleteResult><Error><Key>b</Key><Code>AccessDenied</Code><Message>locked</Message></Error></DeleteResult>";
    let store = Canned::answering(move |asked| match asked.starts_with("POST") {
        true => (200, answer.to_owned()),
        false => listing(&[], ""),
    });
    let error = store.await.open().await.delete_all(&[key("a"), key("b")]).await.unwrap_err();
    assert_eq!(error.fault, Fault::Denied);
    assert!(error.to_string().contains("locked (b)"), "{error}");
}

/// A 404 from something that is no store says nothing of an object.
#[tokio::test]
async fn not_found_is_only_what_the_store_itself_says() {
    let store = Canned::answering(|asked| match asked.contains("list-type=2") {
        true => listing(&[], ""),
        false => (404, "<html>nothing here</html>".to_owned()),
    });
    let store = store.await;
    let storage = store.open().await;
    assert_eq!(storage.get(&key("x"), 9).await.unwrap_err().fault, Fault::Other);
    assert_eq!(storage.head(&key("x")).await.unwrap_err().fault, Fault::Other);

    let store = Canned::answering(|asked| match asked.contains("list-type=2") {
        true => listing(&[], ""),
        false => refusal(404, "NoSuchBucket"),
    });
    let error = store.await.open().await.get(&key("x"), 9).await.unwrap_err();
    assert_eq!(error.fault, Fault::Other);
    assert!(error.to_string().contains("bucket backups does not exist"), "{error}");
}

/// A store that keeps no metadata: whose an object is shows in its bytes.
#[tokio::test]
async fn where_no_token_is_kept_small_objects_are_compared() {
    for (there, expected) in [("mine", Ok(())), ("his!", Err(Fault::Exists)), ("longer", Err(Fault::Exists))] {
        let puts = Arc::new(Mutex::new(0));
        let store = Canned::answering(move |asked| {
            let mut puts = puts.lock().unwrap();
            match asked.split_once(' ').unwrap().0 {
                "GET" if asked.contains("list-type=2") => listing(&[], ""),
                "GET" => (200, there.to_owned()),
                "HEAD" if *puts == 0 => (404, String::new()),
                "HEAD" => (200, "x".repeat(there.len())),
                _ => {
                    *puts += 1;
                    refusal(500, "InternalError")
                }
            }
        });
        let answer = store.await.open().await.create(&key("x"), "mine".into()).await;
        assert_eq!(answer.map_err(|error| error.fault), expected, "{there}");
    }
}

/// What stands between us and the store may ask twice, and be told that the name is taken: by what it asked first.
#[tokio::test]
async fn a_name_that_our_own_request_took_is_ours_though_no_answer_was_lost_here() {
    let taken_by_put = |asked: &str| match asked.split_once(' ').unwrap().0 {
        "GET" if asked.contains("list-type=2") => listing(&[], ""),
        "HEAD" => (404, String::new()),
        "PUT" => refusal(412, "PreconditionFailed"),
        _ => (200, String::new()),
    };
    // Free when it is looked at before, there when it is looked at after.
    let after = |store: fn(&str) -> Answer| {
        let puts = Arc::new(Mutex::new(0));
        move |asked: &str| {
            let mut puts = puts.lock().unwrap();
            *puts += usize::from(asked.starts_with("PUT"));
            if asked.starts_with("HEAD") && *puts > 0 { (200, "mine".to_owned()) } else { store(asked) }
        }
    };
    let ours = Canned::keeping_tokens(after(taken_by_put)).await;
    ours.open().await.create(&key("x"), "mine".into()).await.unwrap();
    assert_eq!(ours.asked("PUT"), 1);
    // Without a token equal bytes prove nothing: nobody lost an answer.
    let theirs = Canned::answering(after(taken_by_put)).await;
    let error = theirs.open().await.create(&key("x"), "mine".into()).await.unwrap_err();
    assert_eq!(error.fault, Fault::Exists);
}

/// A refusal that comes after the head of a success.
#[tokio::test]
async fn a_name_that_is_taken_is_so_in_the_body_of_a_success_too() {
    let store = Canned::answering(|asked| match asked.split_once(' ').unwrap().0 {
        "GET" => listing(&[], ""),
        "HEAD" => (404, String::new()),
        "POST" if asked.contains("uploads") => {
            (200, "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>".to_owned())
        }
        "POST" => refusal(200, "PreconditionFailed"),
        "DELETE" => (204, String::new()),
        _ => (200, String::new()),
    });
    let store = store.await;
    let storage = store.open().await;
    let mut writer = storage.writer(&key("x"), None).await.unwrap();
    writer.write(vec![0; 9 << 20].into()).await.unwrap();
    // Whose it is cannot be told: it is gone when it is looked at.
    let error = writer.finish().await.unwrap_err();
    assert_eq!(error.fault, Fault::Exists, "{error}");
    assert_eq!((store.asked("POST"), store.asked("DELETE")), (2, 1), "it is asked once, and the upload is removed");
}
