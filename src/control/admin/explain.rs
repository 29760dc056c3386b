//! `POST /explain`: explains a request with the generation in force and the current state of its endpoints.

use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::answer::{self, Answer};
use super::orders;
use crate::control::view::View;
use crate::explain::Explainer;
use crate::explain::question::Question;

/// Answers with an explanation, whatever would become of the request.
pub async fn explain(view: &View, request: Request<Incoming>) -> Answer {
    let question: Question = match orders::read(request).await {
        Ok(Some(question)) => question,
        Ok(None) => {
            let detail = "send `{\"method\": \"GET\", \"url\": \"https://example.org/\"}`";
            return answer::error(StatusCode::BAD_REQUEST, "bad_request", detail);
        }
        Err(refused) => return refused,
    };
    match question.asked() {
        Ok(asked) => {
            // Renewed together by this very thread.
            let (snapshot, config) = (view.snapshot(), view.config());
            answer::json(StatusCode::OK, &Explainer::new(&snapshot, &config, true).explain(&asked))
        }
        Err(bad) => answer::error(StatusCode::BAD_REQUEST, "bad_request", &bad.to_string()),
    }
}
