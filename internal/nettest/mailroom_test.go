package nettest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
)

// mailroom is a mail server and a log server at args[0], which write all that
// they are told to standard output: SMTP (RFC 5321) on port 25, and syslog's
// datagrams (RFC 5426) on port 514.
func mailroom(args []string) int {
	mail, err := net.Listen("tcp", net.JoinHostPort(args[0], "25"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	log, err := net.ListenPacket("udp", net.JoinHostPort(args[0], "514"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() { // ends with the process
		datagram := make([]byte, 64<<10)
		for {
			n, _, err := log.ReadFrom(datagram)
			if err != nil {
				return
			}
			fmt.Printf("%s\n", datagram[:n])
		}
	}()
	fmt.Println("ready")
	for {
		conn, err := mail.Accept()
		if err != nil {
			return 1
		}
		takeMail(conn)
	}
}

// takeMail takes what one client has to send.
func takeMail(conn net.Conn) {
	defer conn.Close()
	fmt.Fprint(conn, "220 mailroom\r\n")
	inData := false
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		line := strings.TrimSuffix(lines.Text(), "\r")
		fmt.Println(line)
		command, _, _ := strings.Cut(strings.ToUpper(line), " ")
		switch {
		case inData && line == ".":
			inData = false
			fmt.Fprint(conn, "250 taken\r\n")
		case inData:
		case command == "DATA":
			inData = true
			fmt.Fprint(conn, "354 go on\r\n")
		case command == "QUIT":
			fmt.Fprint(conn, "221 bye\r\n")
			return
		default:
			fmt.Fprint(conn, "250 fine\r\n")
		}
	}
}
