package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Play builds the cluster and leaves it running for whoever wants to try
// things, with commands on cfg.In. It ends when a person says quit, or with
// ctx, whose cause it then returns; everything is cleaned up either way.
func Play(ctx context.Context, cfg Config) (err error) {
	n := newNarrator(cfg)
	c, err := newCluster(cfg, n)
	if err != nil {
		return err
	}
	defer func() { err = c.end(ctx, err) }()
	n.para("Building a cluster: three servers and a client, each in a network namespace of its own.")
	n.blank()
	if err := c.start(ctx); err != nil {
		return err
	}
	p := &console{Cluster: c, since: time.Now()}
	if err := p.where(ctx, nil); err != nil {
		return err
	}
	return p.serve(ctx)
}

// console obeys the commands of a person.
type console struct {
	*Cluster
	since time.Time // when the client was last asked for
}

// verb is a command of the console.
type verb struct {
	usage, what string
	do          func(p *console, ctx context.Context, args []string) error
}

// errQuit ends the console.
var errQuit = errors.New("quit")

func verbs() []verb {
	return []verb{
		{"client", "what the client reads, and its gaps since you asked last", (*console).showClient},
		{"hactl ...", "the operator's command, e.g. hactl status", (*console).hactlLine},
		{"kill NAME", "kill -9 of had on a server", (*console).kill},
		{"stop NAME", "an orderly stop of had on a server", (*console).stop},
		{"start NAME", "start had there again", (*console).startOne},
		{"cut NAME", "cut a server off from everybody", (*console).cutOff},
		{"split", "cut the servers from each other; the client sees all", (*console).split},
		{"heal", "end every cut", (*console).heal},
		{"link NAME up|down", "plug the network cable of a server in, or pull it", (*console).link},
		{"where", "show again where everything is", (*console).where},
		{"help", "this list", (*console).help},
		{"quit", "stop everything and clean up", func(*console, context.Context, []string) error { return errQuit }},
	}
}

// serve obeys until quit, or until ctx ends. The end of the input ends it only
// when a person was typing.
func (p *console) serve(ctx context.Context) error {
	if p.cfg.In == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	lines, err := newLineReader(p.cfg.In)
	if err != nil {
		return err
	}
	defer lines.close()
	for p.n.err == nil {
		if p.cfg.Prompt {
			p.n.prompt("had dev> ")
		}
		line, ok, err := lines.next(ctx)
		switch {
		case err != nil:
			return err
		case !ok && p.cfg.Prompt:
			p.n.blank()
			return nil
		case !ok:
			<-ctx.Done()
			return context.Cause(ctx)
		}
		switch err := p.obey(ctx, words(line)); {
		case errors.Is(err, errQuit):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			p.n.line("  " + p.n.paint(red, err.Error()))
		}
	}
	return p.n.err
}

// words splits a line at spaces, except between quotes of one kind.
func words(line string) []string {
	var all []string
	var word strings.Builder
	var quote rune // the one that is open
	inWord := false
	for _, r := range line + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, inWord = r, true
		case quote == 0 && (r == ' ' || r == '\t' || r == '\r'):
			if inWord {
				all = append(all, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 { // an open end: the space that was added is in it
		all = append(all, strings.TrimSuffix(word.String(), " "))
	}
	return all
}

// obey carries one command out.
func (p *console) obey(ctx context.Context, words []string) error {
	if len(words) == 0 {
		return nil
	}
	for _, v := range verbs() {
		if name, _, _ := strings.Cut(v.usage, " "); name == words[0] {
			if want := strings.Fields(v.usage)[1:]; len(words)-1 != len(want) && name != "hactl" {
				return fmt.Errorf("usage: %s", v.usage)
			}
			return v.do(p, ctx, words[1:])
		}
	}
	return fmt.Errorf("there is no command %q: help lists them", words[0])
}
