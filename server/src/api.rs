//! The interface for programs as one table: each operation with its handler and with what the document says of it. The
//! router and the OpenAPI document are both made of it, so neither knows an operation that the other does not. What the
//! operations do stands in `routes`; the page for people is no part of it.

mod conditions;
mod document;
mod operations;
mod schemas;

use axum::{
    Router,
    handler::Handler,
    middleware,
    routing::{MethodFilter, MethodRouter, on},
};
use http::{Method, StatusCode};
use serde_json::Value;

pub(crate) use self::document::{document, text};
use self::operations::operations;
use crate::{app::App, problems::Kind};

/// Whom an operation answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// A principal, whose data it is about.
    Principal,
    /// Everybody.
    Everybody,
    /// Everybody, and whatever else there is to do: it is never refused for lack of capacity.
    Always,
}

/// One method of one address.
struct Operation {
    method: Method,
    path: &'static str,
    handler: MethodRouter<App>,
    access: Access,
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    parameters: Vec<Parameter>,
    /// The schema of its JSON body.
    body: Option<&'static str>,
    answers: Vec<Success>,
    problems: Vec<&'static Kind>,
}

/// A part of the request beside the body.
struct Parameter {
    name: &'static str,
    place: Place,
    description: &'static str,
    schema: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Path,
    Query,
    Header,
}

/// An answer that is no problem.
struct Success {
    status: StatusCode,
    description: &'static str,
    /// Its media types, each with the name of a schema where it has one.
    content: &'static [(&'static str, Option<&'static str>)],
    /// Headers that it always has.
    headers: &'static [&'static str],
}

impl Operation {
    fn new<H, T>(access: Access, method: Method, path: &'static str, id: &'static str, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("the table names known methods");
        let handler = on(filter, handler);
        Self {
            method,
            path,
            handler,
            access,
            id,
            summary: "",
            description: "",
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn says(self, summary: &'static str, description: &'static str) -> Self {
        Self { summary, description, ..self }
    }

    fn takes(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }

    fn takes_body(self, schema: &'static str) -> Self {
        Self { body: Some(schema), ..self }
    }

    fn answers(mut self, success: Success) -> Self {
        self.answers.push(success);
        self
    }

    fn fails_as(mut self, problems: &[&'static Kind]) -> Self {
        self.problems.extend(problems);
        self
    }

    /// Whether it takes this header and acts on it.
    fn takes_header(&self, name: &str) -> bool {
        let is_it = |parameter: &Parameter| {
            parameter.place == Place::Header && parameter.name.eq_ignore_ascii_case(name)
        };
        self.parameters.iter().any(is_it)
    }
}

/// The routes of the interface for `access`.
pub(crate) fn router(access: Access) -> Router<App> {
    let own = operations().into_iter().filter(|operation| operation.access == access);
    own.fold(Router::new(), |router, operation| {
        let understood = conditions::Understood::by(&operation);
        let refuse = middleware::from_fn_with_state(understood, conditions::refuse_others);
        router.route(operation.path, operation.handler.route_layer(refuse))
    })
}

#[cfg(test)]
pub(crate) mod tests;
