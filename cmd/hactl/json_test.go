package main

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

func TestDocument(t *testing.T) {
	at := timestamppb.New(time.Date(2026, 8, 20, 14, 0, 0, 250e6, time.FixedZone("", 7200)))
	for _, tt := range []struct {
		name string
		m    proto.Message
		want string
	}{
		{
			"nanoseconds are milliseconds",
			&hadv1.Step{Name: "pre_acq", Started: at, DurationNs: 12_500_000},
			`{"schema_version":1,"name":"pre_acq","started":"2026-08-20T12:00:00.25Z","duration_ms":12.5,"error":""}`,
		},
		{
			"enums are short, integers are numbers, text is kept",
			&hadv1.Evidence{Epoch: math.MaxUint64, Kind: hadv1.Evidence_KIND_WAITED},
			`{"schema_version":1,"epoch":18446744073709551615,"kind":"waited","lease_index":0,"waited_ms":0}`,
		},
		{
			"a newer daemon's enum value is its number",
			&hadv1.Evidence{Kind: 77},
			`{"schema_version":1,"epoch":0,"kind":"77","lease_index":0,"waited_ms":0}`,
		},
		{
			"empty lists and absent messages",
			&hadv1.PolicySummary{Version: 3},
			`{"schema_version":1,"version":3,"digest":"","at":null,"by":"","vips":[],"volumes":[],"fence_methods":[],"trial":null}`,
		},
		{
			"only the member of a oneof that is set",
			&hadv1.Event{Index: 7, At: at, Body: &hadv1.Event_MoveEnded{MoveEnded: &hadv1.MoveEnd{Why: "a<b & \"c\"\n"}}},
			`{"schema_version":1,"index":7,"sub":0,"term":0,"at":"2026-08-20T12:00:00.25Z","recorded_at":null,"node":"","epoch":0,"move_ended":{"operation":"","why":"a<b & \"c\"\n"}}`,
		},
		{
			"what is no number",
			&hadv1.Freshness{AgeMs: math.NaN()},
			`{"schema_version":1,"confirmed":false,"age_ms":null,"note":"","applied_index":0}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(document(tt.m)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// Every answer must render to valid JSON with all its fields filled, also the
// fields that a later version adds.
func TestEveryAnswerRenders(t *testing.T) {
	messages := hadv1.File_had_v1_ha_proto.Messages()
	for i := range messages.Len() {
		m := filled(messages.Get(i), 0)
		if b := document(m.Interface()); !json.Valid(b) {
			t.Errorf("%s: %s", m.Descriptor().Name(), b)
		}
	}
	event := (*hadv1.Event)(nil).ProtoReflect().Descriptor()
	bodies := event.Oneofs().ByName("body").Fields()
	for i := range bodies.Len() {
		m := filled(event, 0)
		m.Set(bodies.Get(i), protoreflect.ValueOfMessage(filled(bodies.Get(i).Message(), 0)))
		e := m.Interface().(*hadv1.Event)
		if b := document(e); !json.Valid(b) {
			t.Errorf("%s: %s", bodies.Get(i).Name(), b)
		}
		checkPlain(t, renderEvent(e, plainTestView(), toTheMilli))
	}
}

// filled returns a message of the type with a value in every field.
func filled(d protoreflect.MessageDescriptor, depth int) protoreflect.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err) // every generated type is registered
	}
	m := t.New()
	if depth > 5 {
		return m
	}
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		v := m.NewField(f)
		switch {
		case f.IsList():
			e := v.List().NewElement()
			if f.Message() != nil {
				e = protoreflect.ValueOfMessage(filled(f.Message(), depth+1))
			} else if f.Kind() == protoreflect.StringKind {
				e = protoreflect.ValueOfString("\x1b[31m")
			}
			v.List().Append(e)
		case f.Message() != nil:
			v = protoreflect.ValueOfMessage(filled(f.Message(), depth+1))
		case f.Kind() == protoreflect.StringKind:
			v = protoreflect.ValueOfString("\x1b[31m\xff")
		case f.Kind() == protoreflect.BytesKind:
			v = protoreflect.ValueOfBytes([]byte("\x1b[31m\xff"))
		}
		m.Set(f, v)
	}
	return m
}
