package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// schemaVersion is the version of every JSON document hactl prints. It rises
// when a field changes its meaning or goes; new fields don't raise it.
const schemaVersion = 1

// document renders an answer as one line of JSON by these rules, so that a
// field of the wire needs no code of its own here:
//   - schema_version comes first, then the fields in the order of the .proto
//     file under their names there;
//   - times are RFC 3339 in UTC; int64 fields named *_ns become *_ms, in
//     milliseconds; all integers are JSON numbers;
//   - enum values are short lower-case words (STATE_OWNED is "owned");
//   - bytes are text; what isn't UTF-8 in them is replaced by U+FFFD;
//   - an empty list is [], an absent message null; of a oneof only the member
//     that is set appears.
func document(m proto.Message) []byte {
	b := fmt.Appendf(nil, `{"schema_version":%d`, schemaVersion)
	return append(appendFields(b, m.ProtoReflect(), true), '}')
}

// printDocument writes an indented document to stdout.
func (c *cli) printDocument(m proto.Message) error { return c.printJSON(document(m)) }

// printValue is printDocument for answers that no single message holds; v has
// its own schema_version.
func (c *cli) printValue(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write the answer as JSON: %w", err)
	}
	return c.printJSON(line)
}

func (c *cli) printJSON(line []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, line, "", "  "); err != nil {
		return fmt.Errorf("indent the answer's JSON: %w", err)
	}
	return c.print(b.String() + "\n")
}

// appendFields writes the members of m's object; comma says that one precedes.
func appendFields(b []byte, m protoreflect.Message, comma bool) []byte {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.ContainingOneof() != nil && !m.Has(f) {
			continue
		}
		if comma {
			b = append(b, ',')
		}
		comma = true
		name := string(f.Name())
		if inNanoseconds(f) {
			name = strings.TrimSuffix(name, "_ns") + "_ms"
		}
		b = append(strconv.AppendQuote(b, name), ':')
		b = appendField(b, f, m)
	}
	return b
}

func appendField(b []byte, f protoreflect.FieldDescriptor, m protoreflect.Message) []byte {
	switch {
	case f.IsMap():
		// Their order would have to be chosen; the API has none.
		panic(fmt.Sprintf("field %s is a map: JSON has no rule for it", f.FullName()))
	case f.IsList():
		b = append(b, '[')
		list := m.Get(f).List()
		for i := range list.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, f, list.Get(i))
		}
		return append(b, ']')
	case f.Message() != nil && !m.Has(f):
		return append(b, "null"...)
	}
	return appendValue(b, f, m.Get(f))
}

func appendValue(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if t, ok := v.Message().Interface().(*timestamppb.Timestamp); ok {
			return appendTime(b, t)
		}
		return append(appendFields(append(b, '{'), v.Message(), false), '}')
	case protoreflect.EnumKind:
		return strconv.AppendQuote(b, enumWord(f.Enum(), v.Enum()))
	case protoreflect.StringKind:
		return appendString(b, v.String())
	case protoreflect.BytesKind:
		return appendString(b, string(v.Bytes()))
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return appendFloat(b, v.Float())
	}
	if inNanoseconds(f) {
		return appendFloat(b, float64(v.Int())/float64(time.Millisecond))
	}
	return fmt.Append(b, v.Interface()) // booleans and integers print as JSON does
}

func inNanoseconds(f protoreflect.FieldDescriptor) bool {
	return f.Kind() == protoreflect.Int64Kind && strings.HasSuffix(string(f.Name()), "_ns")
}

func appendTime(b []byte, t *timestamppb.Timestamp) []byte {
	if !t.IsValid() {
		return append(b, "null"...)
	}
	return t.AsTime().AppendFormat(append(b, '"'), time.RFC3339Nano+`"`)
}

// appendFloat writes null for what JSON can't say (RFC 8259 section 6).
func appendFloat(b []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(b, "null"...)
	}
	return strconv.AppendFloat(b, f, 'f', -1, 64)
}

func appendString(b []byte, s string) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(fmt.Sprintf("encode a string: %v", err)) // writes to memory can't fail
	}
	return append(b, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}

// enumWord drops what all values of the enum's type begin with, which is the
// prefix of its zero value (STATE_UNSPECIFIED). A value of a newer daemon is
// its number.
func enumWord(e protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	value := e.Values().ByNumber(n)
	if value == nil {
		return strconv.Itoa(int(n))
	}
	prefix := strings.TrimSuffix(string(e.Values().Get(0).Name()), "UNSPECIFIED")
	return strings.ToLower(strings.TrimPrefix(string(value.Name()), prefix))
}

// word is enumWord for a value at hand.
func word(e protoreflect.Enum) string { return enumWord(e.Descriptor(), e.Number()) }
