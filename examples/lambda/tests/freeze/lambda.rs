//! One execution environment of Lambda: the Runtime API and the Extensions API, and a process that is frozen between
//! two invocations.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// A time limit that is long enough for a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What a function has answered: its response, or its error.
pub(crate) type Answer = Result<Value, Value>;

/// A process with a function. It is frozen, except while it starts, is invoked or is shut down.
pub(crate) struct Environment {
    process: Child,
    invocations: mpsc::UnboundedSender<Invocation>,
    answers: mpsc::UnboundedReceiver<Answer>,
    polls: mpsc::UnboundedReceiver<()>,
}

struct Invocation {
    event: Value,
    deadline: SystemTime,
}

/// The service's end of an environment.
struct Service {
    invocations: Mutex<mpsc::UnboundedReceiver<Invocation>>,
    answers: mpsc::UnboundedSender<Answer>,
    polls: mpsc::UnboundedSender<()>,
}

impl Environment {
    /// Starts a program, waits until it asks for its first invocation, and freezes it.
    pub(crate) async fn start(program: &str, kinesis: SocketAddr) -> Self {
        let (invocations, invoked) = mpsc::unbounded_channel();
        let (answering, answers) = mpsc::unbounded_channel();
        let (polling, polls) = mpsc::unbounded_channel();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Service { invocations: Mutex::new(invoked), answers: answering, polls: polling }));
        let process = Command::new(program)
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "put")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "any")
            .env("AWS_SECRET_ACCESS_KEY", "any")
            .env("AWS_ENDPOINT_URL_KINESIS", format!("http://{kinesis}"))
            .env("STREAM", "events")
            .spawn()
            .unwrap();
        let mut environment = Self { process, invocations, answers, polls };
        environment.freeze_when_idle().await;
        environment
    }

    /// Thaws the process, invokes the function, and freezes the process when it asks for the next invocation.
    pub(crate) async fn invoke(&mut self, event: Value, function_timeout: Duration) -> Answer {
        self.signal(Signal::CONT);
        self.invocations.send(Invocation { event, deadline: SystemTime::now() + function_timeout }).unwrap();
        let answer = timeout(TEST_TIMEOUT, self.answers.recv()).await.expect("the function answers").unwrap();
        self.freeze_when_idle().await;
        answer
    }

    /// Thaws the process and ends it as Lambda does: SIGTERM, and 500 ms later SIGKILL.
    pub(crate) async fn shut_down(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let _ = self.process.kill();
        self.process.wait().unwrap()
    }

    /// Returns the maximum of resident memory so far, in bytes.
    pub(crate) fn memory_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    async fn freeze_when_idle(&mut self) {
        timeout(TEST_TIMEOUT, self.polls.recv()).await.expect("the process asks for an invocation").unwrap();
        self.signal(Signal::STOP);
        let (_, status) = waitpid(Some(Pid::from_child(&self.process)), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "the process has ended: {status:?}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn serve(listener: TcpListener, service: Service) {
    let service = Arc::new(service);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service.clone();
        let connection = http1::Builder::new().serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| {
                let service = service.clone();
                async move { service.reply(request).await }
            }),
        );
        tokio::spawn(connection);
    }
}

impl Service {
    async fn reply(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path: Vec<_> = head.uri.path().split('/').skip(1).collect();
        let reply = match (head.method, &path[..]) {
            (Method::GET, ["2018-06-01", "runtime", "invocation", "next"]) => return Ok(self.next().await),
            (Method::POST, ["2018-06-01", "runtime", "invocation", _, "response"]) => self.answer(Ok(json(&body))),
            (Method::POST, ["2018-06-01", "runtime", "invocation", _, "error"]) => self.answer(Err(json(&body))),
            (Method::POST, ["2020-01-01", "extension", "register"]) => {
                let reply = Response::builder().header("lambda-extension-identifier", "extension-1");
                let function = json!({ "functionName": "put", "functionVersion": "1", "handler": "bootstrap" });
                reply.body(function.to_string().into())
            }
            // An extension without events waits for ever.
            (Method::GET, ["2020-01-01", "extension", "event", "next"]) => std::future::pending().await,
            (method, _) => panic!("unexpected request: {method} {}", head.uri),
        };
        Ok(reply.unwrap())
    }

    async fn next(&self) -> Response<Full<Bytes>> {
        // The test may have ended.
        let _ = self.polls.send(());
        let Some(invocation) = self.invocations.lock().await.recv().await else { return std::future::pending().await };
        let deadline = invocation.deadline.duration_since(UNIX_EPOCH).unwrap();
        let reply = Response::builder()
            .header("lambda-runtime-aws-request-id", "request-1")
            .header("lambda-runtime-deadline-ms", deadline.as_millis().to_string())
            .header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:123456789012:function:put");
        reply.body(invocation.event.to_string().into()).unwrap()
    }

    fn answer(&self, answer: Answer) -> hyper::http::Result<Response<Full<Bytes>>> {
        let _ = self.answers.send(answer);
        Response::builder().status(202).body(Full::default())
    }
}

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}
