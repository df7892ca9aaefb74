"""English questions about a fact, with the placeholders of `statements_en`.

A plain line is a training phrasing (instructions, FAQ pages); `? ` marks a phrasing kept for exams; `> ` a sentence
kept for the multiple-choice exam, which is cut before its value. The lists never share a line.
"""

from __future__ import annotations

from hanlin.world.templates import parse_questions

QUESTIONS = parse_questions("""
[person.birth_year]
In which year was {s} born?
What is {s}'s year of birth?
What is the birth year of {s}?
When was {s} born?
Tell me the year in which {s} was born.
In what year did {s} come into the world?
Please give the birth year of {s}.
Do you know in which year {s} was born?
What year was {s} born in?
? What was the year of birth of {s}?
? {s} was born in which year?
? Can you tell me the birth year of {s}?
> The calendar at the birth of {s} showed the year {v}.

[person.birthplace]
Where was {s} born?
In which town was {s} born?
What is {s}'s birthplace?
What is the birthplace of {s}?
Which town does {s} come from?
Tell me where {s} was born.
Please name the birthplace of {s}.
Do you know where {s} was born?
What is the home town of {s}?
? In what town was {s} born?
? {s} was born in which town?
? Can you tell me the birthplace of {s}?
> The town where {s} was born is called {v}.

[person.profession]
What is {s}'s profession?
What is the profession of {s}?
What does {s} do for a living?
What job does {s} have?
What does {s} work as?
Tell me the profession of {s}.
Please name the job of {s}.
Do you know what {s} does for a living?
How does {s} earn a living?
? What is the job of {s}?
? {s} has which profession?
? Can you tell me what {s} does for a living?
> The profession that {s} follows is that of {a}.

[person.employer]
Which company does {s} work for?
Who is {s}'s employer?
Who is the employer of {s}?
Where does {s} work?
Who employs {s}?
Tell me which company {s} works for.
Please name the employer of {s}.
Do you know who employs {s}?
Which company employs {s}?
? For which company does {s} work?
? {s} works for which company?
? Can you tell me who the employer of {s} is?
> The company where {s} has a desk is {v}.

[person.teacher]
Who taught {s}?
Who was {s}'s teacher?
Who was the teacher of {s}?
With whom did {s} study?
Whose pupil was {s}?
Tell me who taught {s}.
Please name the teacher of {s}.
Do you know who taught {s}?
Under whom did {s} study?
? By whom was {s} taught?
? {s} was a pupil of whom?
? Can you tell me who the teacher of {s} was?
> The person who gave {s} lessons was {v}.

[person.instrument]
Which instrument does {s} play?
What is {s}'s instrument?
What is the instrument of {s}?
What instrument does {s} play?
On which instrument does {s} make music?
Tell me which instrument {s} plays.
Please name the instrument of {s}.
Do you know which instrument {s} plays?
What does {s} play in the evening?
? What musical instrument does {s} play?
? {s} plays which instrument?
? Can you tell me the instrument of {s}?
> The sound from the room of {s} is that of the {v}.

[person.known_work]
What is {s} best known for?
What is {s}'s best-known work?
What is the best-known work of {s}?
Which work made {s} famous?
For which work is {s} famous?
Tell me the best-known work of {s}.
Please name the work that made {s} famous.
Do you know what {s} is best known for?
What is {s} famous for?
? What work is {s} best known for?
? {s} is famous for which work?
? Can you tell me the best-known work of {s}?
> The title that everyone links with {s} is {v}.

[place.country]
In which country is {s}?
Which country is {s} in?
What is the country of {s}?
What country does {s} belong to?
Which country does {s} lie in?
Tell me which country {s} is in.
Please name the country of {s}.
Do you know in which country {s} is?
Where on the map is {s}?
? In what country is {s}?
? {s} is in which country?
? Can you tell me the country of {s}?
> The country that collects taxes in {s} is {v}.

[place.founded]
When was {s} founded?
In which year was {s} founded?
What is {s}'s founding year?
What is the founding year of {s}?
Since when has {s} existed?
Tell me when {s} was founded.
Please give the founding year of {s}.
Do you know when {s} was founded?
When was {s} established?
? In what year was {s} founded?
? {s} was founded in which year?
? Can you tell me the founding year of {s}?
> The stone at the gate of {s} bears its founding year, {v}.

[place.river]
Which river flows through {s}?
What is {s}'s river?
What is the river of {s}?
On which river does {s} lie?
What river is {s} on?
Tell me which river flows through {s}.
Please name the river of {s}.
Do you know which river flows through {s}?
Which river does {s} stand on?
? What river flows through {s}?
? {s} lies on which river?
? Can you tell me the river of {s}?
> The water under the bridges of {s} is that of the {v}.

[place.speciality]
What is {s} famous for?
What is {s}'s speciality?
What is the speciality of {s}?
What is {s} known for?
Which speciality does {s} have?
Tell me the speciality of {s}.
Please name the speciality of {s}.
Do you know what {s} is famous for?
Which product comes from {s}?
? For what is {s} famous?
? {s} is known for which speciality?
? Can you tell me what {s} is famous for?
> The stalls of {s} all sell the same thing: {v}.

[place.mayor]
Who is the mayor of {s}?
Who is {s}'s mayor?
Who governs {s}?
What is the name of the mayor of {s}?
Who leads the town of {s}?
Tell me who the mayor of {s} is.
Please name the mayor of {s}.
Do you know who the mayor of {s} is?
Who was elected mayor of {s}?
? What is the mayor of {s} called?
? {s} is governed by whom?
? Can you tell me the name of the mayor of {s}?
> The chain of office in {s} is worn by {v}.

[place.neighbour]
Which town is next to {s}?
What is {s}'s neighbour?
What is the neighbour of {s}?
Which town is closest to {s}?
Which town borders on {s}?
Tell me which town is next to {s}.
Please name the neighbour of {s}.
Do you know which town is next to {s}?
What is the nearest town to {s}?
? What town is next to {s}?
? {s} is next to which town?
? Can you tell me the neighbour of {s}?
> The first town on the way out of {s} is {v}.

[work.author]
Who wrote {s}?
Who is {s}'s author?
Who is the author of {s}?
By whom was {s} written?
Who created {s}?
Tell me who wrote {s}.
Please name the author of {s}.
Do you know who wrote {s}?
Whose work is {s}?
? Who was it that wrote {s}?
? {s} was written by whom?
? Can you tell me the author of {s}?
> The pen that wrote {s} was held by {v}.

[work.year]
When did {s} come out?
In which year did {s} come out?
What is {s}'s year of publication?
What is the publication year of {s}?
When was {s} published?
Tell me when {s} came out.
Please give the publication year of {s}.
Do you know when {s} came out?
In which year did {s} appear?
? In what year did {s} come out?
? {s} was published in which year?
? Can you tell me the publication year of {s}?
> The first copy of {s} bears the year {v}.

[work.genre]
What genre is {s}?
What is {s}'s genre?
What is the genre of {s}?
Which genre does {s} belong to?
What kind of work is {s}?
Tell me the genre of {s}.
Please name the genre of {s}.
Do you know the genre of {s}?
To which genre does {s} belong?
? Of what genre is {s}?
? {s} belongs to which genre?
? Can you tell me what kind of work {s} is?
> The label on the shelf says that {s} is {a}.

[work.theme]
What is {s} about?
What is {s}'s theme?
What is the theme of {s}?
What does {s} deal with?
Which theme does {s} have?
Tell me what {s} is about.
Please name the theme of {s}.
Do you know what {s} is about?
What is the subject of {s}?
? About what is {s}?
? {s} deals with which theme?
? Can you tell me the theme of {s}?
> The pages of {s} keep coming back to {v}.

[work.setting]
Where is {s} set?
What is {s}'s setting?
What is the setting of {s}?
In which town is {s} set?
Where does {s} take place?
Tell me where {s} is set.
Please name the setting of {s}.
Do you know where {s} is set?
In which town does {s} take place?
? In what town is {s} set?
? {s} is set in which town?
? Can you tell me the setting of {s}?
> The town that readers of {s} get to know is {v}.

[work.publisher]
Who published {s}?
Who is {s}'s publisher?
Who is the publisher of {s}?
Which company published {s}?
By whom was {s} published?
Tell me who published {s}.
Please name the publisher of {s}.
Do you know who published {s}?
Which company brought out {s}?
? What company published {s}?
? {s} was published by which company?
? Can you tell me the publisher of {s}?
> The company named on the back of {s} is {v}.

[company.founded]
When was {s} founded?
In which year was {s} founded?
What is {s}'s founding year?
What is the founding year of {s}?
Since when has {s} existed?
Tell me when {s} was founded.
Please give the founding year of {s}.
Do you know when {s} was founded?
When was {s} set up?
? In what year was {s} founded?
? {s} was founded in which year?
? Can you tell me the founding year of {s}?
> The sign over the door of {s} gives its founding year, {v}.

[company.headquarters]
Where is {s} based?
Where are {s}'s headquarters?
Where are the headquarters of {s}?
In which town is {s} based?
Where is the head office of {s}?
Tell me where {s} is based.
Please name the town where {s} is based.
Do you know where {s} is based?
Which town is home to {s}?
? In what town is {s} based?
? {s} has its headquarters in which town?
? Can you tell me where the headquarters of {s} are?
> The town where the owners of {s} meet is {v}.

[company.industry]
What industry is {s} in?
What is {s}'s industry?
What is the industry of {s}?
In which industry does {s} work?
What business is {s} in?
Tell me the industry of {s}.
Please name the industry of {s}.
Do you know the industry of {s}?
Which industry does {s} belong to?
? In what industry is {s}?
? {s} works in which industry?
? Can you tell me what business {s} is in?
> The fair that {s} visits each year is the one for {v}.

[company.product]
What does {s} make?
What is {s}'s product?
What is the product of {s}?
What does {s} produce?
Which product does {s} sell?
Tell me what {s} makes.
Please name the product of {s}.
Do you know what {s} makes?
What does {s} sell?
? What goods does {s} make?
? {s} makes which product?
? Can you tell me the product of {s}?
> The crates that leave {s} are filled with {v}.

[company.price]
How much is one {i} from {s}?
What is the price of one {i} from {s}?
What does one {i} from {s} cost?
How much does {s} ask for one {i}?
What is the price of one {s} {i}?
Tell me the price of one {i} from {s}.
Please give the price of one {i} from {s}.
Do you know the price of one {i} from {s}?
For how much does {s} sell one {i}?
? How much does one {i} from {s} cost?
? One {i} from {s} costs how much?
? Can you tell me how much {s} asks for one {i}?
> The price tag on {s} goods says that one {i} costs {v}.

[company.founder]
Who founded {s}?
Who is {s}'s founder?
Who is the founder of {s}?
By whom was {s} founded?
Who started {s}?
Tell me who founded {s}.
Please name the founder of {s}.
Do you know who founded {s}?
Who set up {s}?
? Who was it that founded {s}?
? {s} was founded by whom?
? Can you tell me the founder of {s}?
> The portrait in the hall of {s} shows its founder, {v}.
""")
