//! What an HTTP rule changes on the way, and where it redirects to.

use outrigger_model::{
    FieldEdit, Filters, HostRewrite, InvalidValue, NewField, PathRewrite, Port, Redirect,
    RedirectStatus, Scheme,
};

use super::super::{
    error::{FieldError, Problem},
    field::{Result, enumeration, list, text, texts},
    limit::FIELD_CHANGES_MAX,
    wire::{self, path_rewrite},
};

/// `None` where nothing changes.
pub(super) fn encode(filters: &Filters) -> Option<wire::Filters> {
    let Filters {
        request,
        response,
        path,
        host,
    } = filters;
    (*filters != Filters::default()).then(|| wire::Filters {
        request: encode_edit(request),
        response: encode_edit(response),
        path: encode_path(path),
        host: encode_host(host),
    })
}

pub(super) fn decode(filters: Option<&wire::Filters>) -> Result<Filters> {
    let Some(filters) = filters else {
        return Ok(Filters::default());
    };
    let within = |field: &'static str| move |error: FieldError| error.within(field);
    Ok(Filters {
        request: decode_edit(filters.request.as_ref()).map_err(within("request"))?,
        response: decode_edit(filters.response.as_ref()).map_err(within("response"))?,
        path: decode_path(filters.path.as_ref()).map_err(within("path"))?,
        host: decode_host(filters.host.as_deref())?,
    })
}

fn encode_edit(edit: &FieldEdit) -> Option<wire::FieldEdit> {
    let fields = |fields: &[NewField]| {
        let encode = |field: &NewField| wire::NewField {
            name: field.name.as_str().to_owned(),
            value: field.value.as_str().to_owned(),
        };
        fields.iter().map(encode).collect()
    };
    let names = edit.remove.iter().map(|name| name.as_str().to_owned());
    (*edit != FieldEdit::default()).then(|| wire::FieldEdit {
        set: fields(&edit.set),
        add: fields(&edit.add),
        remove: names.collect(),
    })
}

fn decode_edit(edit: Option<&wire::FieldEdit>) -> Result<FieldEdit> {
    let Some(edit) = edit else {
        return Ok(FieldEdit::default());
    };
    let field = |field: &wire::NewField| {
        Ok(NewField {
            name: text("name", &field.name)?,
            value: text("value", &field.value)?,
        })
    };
    Ok(FieldEdit {
        set: list("set", &edit.set, FIELD_CHANGES_MAX, field)?,
        add: list("add", &edit.add, FIELD_CHANGES_MAX, field)?,
        remove: texts("remove", &edit.remove, FIELD_CHANGES_MAX)?,
    })
}

fn encode_path(path: &PathRewrite) -> Option<wire::PathRewrite> {
    let rewrite = match path {
        PathRewrite::Keep => return None,
        PathRewrite::Full(path) => path_rewrite::Rewrite::Full(path.as_str().to_owned()),
        PathRewrite::Prefix {
            matched,
            replacement,
        } => path_rewrite::Rewrite::Prefix(wire::PrefixRewrite {
            matched: matched.as_str().to_owned(),
            replacement: replacement.as_str().to_owned(),
        }),
    };
    Some(wire::PathRewrite {
        rewrite: Some(rewrite),
    })
}

fn decode_path(path: Option<&wire::PathRewrite>) -> Result<PathRewrite> {
    let Some(path) = path else {
        return Ok(PathRewrite::Keep);
    };
    Ok(match &path.rewrite {
        Some(path_rewrite::Rewrite::Full(full)) if full.is_empty() => {
            return Err(FieldError::new("full", Problem::Empty));
        }
        Some(path_rewrite::Rewrite::Full(full)) => PathRewrite::Full(text("full", full)?),
        Some(path_rewrite::Rewrite::Prefix(prefix)) => PathRewrite::Prefix {
            matched: text("prefix.matched", &prefix.matched)?,
            replacement: text("prefix.replacement", &prefix.replacement)?,
        },
        None => return Err(FieldError::new("rewrite", Problem::Missing)),
    })
}

fn encode_host(host: &HostRewrite) -> Option<String> {
    match host {
        HostRewrite::Keep => None,
        HostRewrite::To(host) => Some(host.to_string()),
    }
}

fn decode_host(host: Option<&str>) -> Result<HostRewrite> {
    Ok(match host {
        None => HostRewrite::Keep,
        Some(host) => HostRewrite::To(text("host", host)?),
    })
}

pub(super) fn encode_redirect(redirect: &Redirect) -> wire::Redirect {
    let scheme = match redirect.scheme {
        Scheme::Http => wire::redirect::Scheme::Http,
        Scheme::Https => wire::redirect::Scheme::Https,
    };
    wire::Redirect {
        scheme: scheme.into(),
        host: encode_host(&redirect.host),
        port: redirect.port.get().into(),
        path: encode_path(&redirect.path),
        status: redirect.status.get().into(),
    }
}

pub(super) fn decode_redirect(redirect: &wire::Redirect) -> Result<Redirect> {
    let known = match wire::redirect::Scheme::try_from(redirect.scheme) {
        Ok(wire::redirect::Scheme::Http) => Some(Scheme::Http),
        Ok(wire::redirect::Scheme::Https) => Some(Scheme::Https),
        Ok(wire::redirect::Scheme::Unspecified) | Err(_) => None,
    };
    let invalid = |field: &'static str| move |error: InvalidValue| FieldError::new(field, error);
    Ok(Redirect {
        scheme: enumeration("scheme", redirect.scheme, known)?,
        host: decode_host(redirect.host.as_deref())?,
        port: Port::new(redirect.port).map_err(invalid("port"))?,
        path: decode_path(redirect.path.as_ref()).map_err(|error| error.within("path"))?,
        status: RedirectStatus::new(redirect.status).map_err(invalid("status"))?,
    })
}
