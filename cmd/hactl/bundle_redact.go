package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"had/internal/bundle"
	"had/internal/redact"
)

const (
	shortestSecret = 4       // characters; what is shorter is part of half the words
	shortestValue  = 6       // of one behind an equals sign, such as "true"
	longestSecret  = 1 << 20 // bytes of a file
	secretTime     = 2 * time.Second
)

// knowSecrets learns what this host's files with secrets hold, and what stands in
// policy and node file, so that it can be found wherever it turns up: in the output of
// a script, in a line of the log.
func (g *gatherer) knowSecrets(ctx context.Context) {
	policy := bundle.ReadConfig(g.policyInForce(ctx))
	g.secrets = policy.Secrets
	if g.local() {
		text, err := os.ReadFile(g.config)
		if err == nil {
			g.node = bundle.ReadConfig(string(text))
		}
		g.secrets = append(g.secrets, g.node.Secrets...)
		files := slices.Concat(policy.Files, g.node.Files)
		for _, usual := range []string{"secrets/*", "token.key", "tls/*-key.pem", "tls/*/*-key.pem"} {
			found, _ := filepath.Glob(filepath.Join(g.configDir, usual)) // only fails for a bad pattern
			files = append(files, found...)
		}
		for _, f := range files {
			g.learn(f)
		}
	}
	g.hide = redact.Hider(g.secrets)
}

// learn takes what a file holds for secret: all of it, each line, and each value.
func (g *gatherer) learn(path string) {
	content, err := readWithin(secretTime, path)
	if os.IsNotExist(err) {
		return // it can't have got anywhere, either
	}
	if err != nil {
		g.note(fmt.Sprintf("%s could not be read, so that what it holds could not be looked for in the rest: %v", path, err))
		return
	}
	take := func(part string, shortest int) {
		if part = strings.TrimSpace(part); len(part) >= shortest {
			g.secrets = append(g.secrets, part)
		}
	}
	take(content, shortestSecret)
	for line := range strings.Lines(content) {
		if _, value, _ := strings.Cut(line, "="); !strings.HasPrefix(line, "-----") {
			take(line, shortestSecret)
			take(value, shortestValue)
		}
	}
}

// readWithin is readSmall of a file on storage that may not answer any more: a token's
// place is shared storage often enough, and that may be what failed.
func readWithin(limit time.Duration, path string) (string, error) {
	type outcome struct {
		content string
		err     error
	}
	read := make(chan outcome, 1)
	go func() { // what hangs in the kernel can't be joined: it ends with this process
		content, err := readSmall(path)
		read <- outcome{content, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case o := <-read:
		return o.content, o.err
	case <-timer.C:
		return "", fmt.Errorf("its storage has not answered for %s", limit)
	}
}

func readSmall(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a named pipe must not hold it up
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, longestSecret))
	return string(b), err
}

// nodeFile is this host's, without secrets and comments.
func (g *gatherer) nodeFile() {
	if g.node.Text == "" {
		_, err := os.ReadFile(g.config)
		if err == nil {
			err = fmt.Errorf("%s is empty", g.config)
		}
		g.bundle.Miss("host/node.hcl", err.Error())
		return
	}
	g.list("host/node.hcl", g.config, []byte(g.node.Text))
}

// answer takes secrets out of a daemon's answer: of every text in it, before it is laid
// out in lines.
func (g *gatherer) answer(m proto.Message) { g.message(m.ProtoReflect()) }

func (g *gatherer) message(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		isPolicy := f.Name() == "text" && strings.HasPrefix(string(m.Descriptor().Name()), "Policy")
		without := func(v protoreflect.Value) protoreflect.Value {
			switch f.Kind() {
			case protoreflect.MessageKind, protoreflect.GroupKind:
				g.message(v.Message())
			case protoreflect.StringKind:
				return protoreflect.ValueOfString(g.text(v.String(), isPolicy))
			case protoreflect.BytesKind:
				return protoreflect.ValueOfBytes([]byte(g.text(string(v.Bytes()), false)))
			}
			return v
		}
		switch {
		case f.IsMap(): // hactl's API has none
			m.Clear(f)
		case f.IsList():
			for i := range v.List().Len() {
				v.List().Set(i, without(v.List().Get(i)))
			}
		default:
			v = without(v)
			if f.Message() == nil {
				m.Set(f, v)
			}
		}
		return true
	})
}

func (g *gatherer) text(s string, isPolicy bool) string {
	if isPolicy {
		s = bundle.ReadConfig(s).Text
	}
	return strings.ToValidUTF8(g.hide.Replace(redact.Text(s)), "\ufffd")
}

// redactAnswer is a grpc.UnaryClientInterceptor.
func (c *cli) redactAnswer(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, conn, opts...)
	if m, ok := reply.(proto.Message); ok && err == nil && c.redact != nil {
		c.redact(m)
	}
	return err
}

// redactStream is a grpc.StreamClientInterceptor.
func (c *cli) redactStream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, conn, method, opts...)
	if err != nil || c.redact == nil {
		return s, err
	}
	return redactedStream{s, c.redact}, nil
}

type redactedStream struct {
	grpc.ClientStream
	redact func(proto.Message)
}

// RecvMsg implements grpc.ClientStream.
func (s redactedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if p, ok := m.(proto.Message); ok && err == nil {
		s.redact(p)
	}
	return err
}
