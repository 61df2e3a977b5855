//! An expression of CEL, as an API server has them in rules of schemas and in policies of admission.
//!
//! The limits of cost are not known here, nor are what Kubernetes adds to the language: `quantity`, `url`, `authorizer`, ...

use cel::common::ast::{EntryExpr, Expr};
use cel::{Context, Env, ExecutionError, IdedExpr, Program, extensions};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, OnceLock};

/// What the real server has for every expression, as far as the library goes.
#[expect(clippy::expect_used, reason = "declares the same on every run")]
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    extensions::strings(&mut environment).expect("strings");
    extensions::lists(&mut environment).expect("lists");
    Arc::new(environment)
});

#[derive(Debug)]
pub(crate) struct Expression {
    text: String,
    program: Program,
    names: OnceLock<Names>,
}

impl Expression {
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        let program = ENVIRONMENT.compile(text).map_err(|error| error.to_string())?;
        Ok(Self { text: text.to_owned(), program, names: OnceLock::new() })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn mentions(&self, variable: &str) -> bool {
        self.program.references().has_variable(variable)
    }

    /// The variables and functions that it names, but for those of the language.
    pub(crate) fn names(&self) -> &Names {
        self.names.get_or_init(|| {
            let mut names = Names::default();
            names.read(self.program.expression(), &mut Vec::new());
            names
        })
    }

    /// Its value, where these variables have these values.
    pub(crate) fn evaluate<'a>(
        &self,
        variables: impl IntoIterator<Item = (&'a str, cel::Value)>,
    ) -> Result<cel::Value, ExecutionError> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for (name, value) in variables {
            context.add_variable_from_value(name, value);
        }
        self.program.execute(&context)
    }
}

/// What an expression names that the language does not have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) variables: BTreeSet<String>,
    /// The fields of the variable `variables`, which policies of admission have.
    pub(crate) composed: BTreeSet<String>,
    pub(crate) functions: BTreeSet<String>,
}

impl Names {
    /// `bound` are the names that the macros around `at` give.
    fn read<'a>(&mut self, at: &'a IdedExpr, bound: &mut Vec<&'a str>) {
        match &at.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => {
                if !bound.contains(&name.as_str()) && is_unknown(name) {
                    self.variables.insert(name.clone());
                }
            }
            Expr::Select(select) => {
                let is_composed = matches!(&select.operand.expr, Expr::Ident(name) if name == "variables");
                // `has(variables.x)` asks for `variables` itself.
                if is_composed && !select.test && !bound.contains(&"variables") {
                    self.composed.insert(select.field.clone());
                } else {
                    self.read(&select.operand, bound);
                }
            }
            Expr::Call(call) => {
                let is_operator = !call.func_name.starts_with(|first: char| first.is_ascii_alphabetic());
                if !is_operator
                    && is_unknown(&format!("{}()", call.func_name))
                    && is_unknown(&format!("''.{}()", call.func_name))
                {
                    self.functions.insert(call.func_name.clone());
                }
                for inner in call.target.iter().map(AsRef::as_ref).chain(&call.args) {
                    self.read(inner, bound);
                }
            }
            Expr::Comprehension(inner) => {
                self.read(&inner.iter_range, bound);
                self.read(&inner.accu_init, bound);
                let before = bound.len();
                bound.extend([inner.accu_var.as_str(), inner.iter_var.as_str()]);
                bound.extend(inner.iter_var2.as_deref());
                for inner in [&inner.loop_cond, &inner.loop_step, &inner.result] {
                    self.read(inner, bound);
                }
                bound.truncate(before);
            }
            Expr::List(list) => list.elements.iter().for_each(|inner| self.read(inner, bound)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.read_entry(&entry.expr, bound)),
            Expr::Struct(fields) => {
                fields.entries.iter().for_each(|entry| self.read_entry(&entry.expr, bound));
            }
        }
    }

    fn read_entry<'a>(&mut self, entry: &'a EntryExpr, bound: &mut Vec<&'a str>) {
        match entry {
            EntryExpr::StructField(field) => self.read(&field.value, bound),
            EntryExpr::MapEntry(entry) => {
                self.read(&entry.key, bound);
                self.read(&entry.value, bound);
            }
        }
    }
}

/// Whether the language has no such name, or no function that is called so: nobody else can be asked.
fn is_unknown(text: &str) -> bool {
    let nothing = Context::with_env(Arc::clone(&ENVIRONMENT));
    let answer = ENVIRONMENT.compile(text).map(|program| program.execute(&nothing));
    matches!(answer, Ok(Err(ExecutionError::UndeclaredReference(_))))
}

/// JSON as expressions see it: whole numbers are of the type `int`, whatever the schema says, others of `double`.
pub(crate) fn known(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| number.as_f64().unwrap_or_default().into(), Into::into)
        }
        Value::String(text) => text.as_str().into(),
        Value::Array(list) => list.iter().map(known).collect::<Vec<_>>().into(),
        Value::Object(map) => {
            let map = map.iter().map(|(name, value)| (name.clone(), known(value)));
            map.collect::<std::collections::HashMap<_, _>>().into()
        }
    }
}

/// Variables by their names, as [`Expression::evaluate`] takes them.
pub(crate) type Values = BTreeMap<String, cel::Value>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_an_expression_are_those_that_neither_the_language_nor_a_macro_gives() {
        let names = |text: &str| {
            let expression = Expression::compile(text).unwrap();
            let Names { variables, composed, functions } = expression.names();
            [variables, composed, functions].map(|names| Vec::from_iter(names.clone()).join(" "))
        };
        for (text, expected) in [
            ("has(object.spec) && object.spec.n == 1 ? size('a') : int('1')", ["object", "", ""]),
            ("object.list.all(x, x.startsWith(request.name) || x in [y])", ["object request y", "", ""]),
            ("x.exists(x, x == 1)", ["x", "", ""]),
            ("variables.node + variables.other.text", ["", "node other", ""]),
            ("{'a': params.x, 'b': type(a) == string}", ["a params", "", ""]),
            ("authorizer.group('apps').check('x').allowed()", ["authorizer", "", "allowed check group"]),
            ("quantity('1Ki').isGreaterThan(quantity('1'))", ["", "", "isGreaterThan quantity"]),
            ("' A '.trim().lowerAscii().split(',').size() > 0", ["", "", ""]),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
    }
}
